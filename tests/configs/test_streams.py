"""Standard output and error: another encoding, a reader that leaves, and none at all."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qdreamer import cli
from qdreamer.configs import streams

ROOT = Path(__file__).parents[2]
BEGIN = "import sys; from qdreamer.configs.streams import settle; settle(); "
# Writes far more than a pipe holds, then leaves a file to say that it came to its end.
WRITES = BEGIN + "[print('· ' * 500, flush=True) for _ in range(400)]; open(sys.argv[1], 'w').close()"


def start(code: str, *arguments: str, **options) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, **options)


@pytest.mark.processes
@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1", "utf-8"])
def test_signs_that_a_terminal_lacks_are_replaced(encoding):
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    process = start(BEGIN + "print('step 3 – ETA …')", stdout=subprocess.PIPE, env=environment)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 0 and not error
    shown = out.decode(encoding).strip()
    assert shown == ("step 3 – ETA …" if encoding == "utf-8" else "step 3 ? ETA ?")


@pytest.mark.processes
def test_a_reader_that_leaves_ends_nothing(tmp_path):
    process = start(WRITES, str(tmp_path / "end"), stdout=subprocess.PIPE)
    assert process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 0
    assert (tmp_path / "end").exists()


@pytest.mark.processes
def test_without_streams_it_goes_on(tmp_path):
    shell = f'exec "{sys.executable}" -c "$CODE" "$END" >&- 2>&-'
    environment = os.environ | {"CODE": WRITES, "END": str(tmp_path / "end")}
    assert subprocess.run(["sh", "-c", shell], cwd=ROOT, env=environment, timeout=60).returncode == 0
    assert (tmp_path / "end").exists()


def test_settling_twice_is_settling_once(monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.StringIO())
    streams.settle()
    settled = sys.stdout
    streams.settle()
    assert sys.stdout is settled
    print("as before")
    assert settled.getvalue() == "as before\n"


@pytest.mark.parametrize("word", list(cli.COMMANDS))
def test_ctrl_c_while_modules_load_is_one_line(word, monkeypatch, capsys):
    def interrupted(name):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "import_module", interrupted)
    monkeypatch.setattr(cli, "settle", lambda: None)  # the test's own streams stay
    with pytest.raises(SystemExit) as end:
        cli.run(word, [])
    assert end.value.code == 130
    assert capsys.readouterr().err == "error: interrupted before anything began\n"


@pytest.mark.processes
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full")
def test_a_full_disk_is_no_success():
    with Path("/dev/full").open("w") as full:
        process = start(BEGIN + "print('figures', flush=True)", stdout=full)
        _, error = process.communicate(timeout=60)
    assert process.returncode != 0
    assert b"No space left" in error
