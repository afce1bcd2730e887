"""What `train.py --help` prints, in 80 columns."""

import re
import textwrap

from qdreamer.agents.cli.overrides import CONFIGS, groups

WIDTH = 80
TEXT = """\
QDreamer: train a world-model agent on a Gymnasium environment.

  python train.py env=CartPole                  the main job: minutes
  python train.py env=CartPole agent=classical  the baseline: nothing quantum
  python train.py env=Pendulum seed=3 steps=20000
                                                another task, seed and length
  python train.py env=gym env.id=FrozenLake-v1  any registered environment
  python train.py env=CartPole env.hide=[1,3]   velocities hidden
  python train.py env=CartPole sequence=gru     one part swapped: no attention
  python train.py env=CartPole replay=prioritized
                                                … classical replay
  python train.py env=CartPole optimizer=hybrid … searches with QAOA
  python train.py env=CartPole quantum=aer      circuits on another backend
  python train.py -m agent=classical,hybrid seed=0,1,2
                                                a sweep
  python train.py -m 'seed=range(0,10)' launcher.jobs=4
                                                … four runs at a time
                                                (launcher=slurm: on a cluster)
  python train.py resume=runs/CartPole/hybrid/seed_0 steps=20000
                                                a run made longer
  python train.py --cfg job                     every setting and its value
                                                (--resolve: as it comes out)
  tensorboard --logdir runs                     watch the curves

Installed, qdreamer train … does from any folder what python train.py … does in
the repository.

Agents (agent=…):

{agents}

Groups and their choices (group=choice):

{groups}

Settings are written key=value, as in optimizer.lr=3e-4; what nothing in the
run would read is refused. Each run is kept in runs/<env>/<agent>[+settings]/
seed_<k>; the same command again resumes it, and with --repair also when a file
of it was damaged."""


def help_text() -> str:
    """Return the text with every group's choices, those of installed third parties included."""
    agents = "\n".join(_row(name, _words(name)) for name in groups()["agent"])
    others = {group: names for group, names in groups().items() if group != "agent"}
    rows = "\n".join(_wrapped(f"{group}: {', '.join(names)}", 4) for group, names in others.items())
    return TEXT.format(agents=agents, groups=rows)


def _words(agent: str) -> str:
    """Return what an agent is: the first sentence of its file."""
    text = (CONFIGS / "agent" / f"{agent}.yaml").read_text(encoding="utf-8")
    comment = re.search(r"(?:^# (?!@).*\n)+", text, re.MULTILINE)
    words = " ".join(line.lstrip("# ") for line in comment[0].splitlines()) if comment else ""
    return re.split(r"\.(?: |$)|; | \(", words)[0]


def _row(name: str, words: str) -> str:
    return _wrapped(f"  {name:<25} {words}", 28)


def _wrapped(text: str, indent: int) -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False)
