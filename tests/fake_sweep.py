"""A sweep over processes that stand for train.py; as a script, the sweep's own process."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from qdreamer.agents.sweeps import local_launcher  # noqa: E402
from qdreamer.agents.sweeps.sweep import Member, Sweep  # noqa: E402

# Takes 10 steps of 30 ms, saves after each, resumes, holds the lock, writes down every step that it takes,
# and leaves at SIGTERM. `fail` crashes at step 3.
FAKE = """
import fcntl, json, os, signal, sys, time
sys.path.insert(0, {root!r})
from qdreamer.agents.runs.orphan import exit_with_parent
directory, kind = sys.argv[1], sys.argv[2]
stop = []
signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
exit_with_parent()
lock = open(directory + "/.lock", "w")
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("error: taken"); sys.exit(2)
def state():
    try: return json.load(open(directory + "/summary.json"))["step"]
    except FileNotFoundError: return 0
step = state()
if kind == "fail" and step >= 3:
    print("error: it broke"); sys.exit(1)
while step < 10:
    time.sleep(0.03)
    step += 1
    with open(directory + "/steps.txt", "a") as file: file.write(f"{{step}}\\n")
    with open(directory + "/summary.tmp", "w") as file: json.dump({{"step": step}}, file)
    os.replace(directory + "/summary.tmp", directory + "/summary.json")
    if kind == "fail" and step == 3:
        print("error: it broke"); sys.exit(1)
    if stop: sys.exit(143)
"""


def fake_members(folder: Path, kinds: Sequence[str] = ("good",) * 8, config: Any = None) -> list[Member]:
    config = config or SimpleNamespace(steps=10, threads=1)
    return [Member(folder / f"seed_{i}", config, (kind,)) for i, kind in enumerate(kinds)]


def fake_sweep(members: list[Member], jobs: int, say: Callable[[str], None] = lambda text: None) -> Sweep:
    def launch(member: Member) -> subprocess.Popen[bytes]:
        script = FAKE.format(root=str(ROOT))
        command = [sys.executable, "-c", script, str(member.directory), *member.arguments]
        return local_launcher.start(command, member.directory, member.config.threads)

    return Sweep(members, launch, jobs, say)


if __name__ == "__main__":
    sys.exit(fake_sweep(fake_members(Path(sys.argv[1])), 3).run())
