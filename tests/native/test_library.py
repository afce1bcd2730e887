"""How the library is compiled and loaded, what happens without a compiler, and what Python and C share."""

import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qdreamer.native import library
from qdreamer.native.library import SOURCES, LayoutError, Struct, check_layout, load_library

pytestmark = pytest.mark.usefixtures("compiled")


def test_a_library_is_made_once(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    sources = sorted(SOURCES.iterdir())
    told = []
    library.load(sources, lambda: told.append("begins"))
    (made,) = (tmp_path / "qdreamer").iterdir()  # and nothing else is left there
    monkeypatch.setattr(library, "build", lambda *_: pytest.fail("built again"))
    library.load(sources, lambda: told.append("begins"))
    assert told == ["begins"]
    (changed := tmp_path / "kernels.c").write_text("int changed;")
    flags = [*library.FLAGS, "-fopenmp"]
    names = {library.fingerprint(files, library.find_compiler(), flags) for files in (sources, [changed])}
    assert made.stem in names
    assert len(names) == 2


@pytest.mark.parametrize("trouble", ["no compiler", "failing compiler", "no place", "wrong code"])
def test_without_a_library_it_says_why(tmp_path, monkeypatch, trouble):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    sources = sorted(SOURCES.iterdir())
    if trouble == "no compiler":
        monkeypatch.setenv("PATH", str(tmp_path))
    elif trouble == "failing compiler":
        monkeypatch.setenv("CC", "false")
    elif trouble == "no place":
        (tmp_path / "qdreamer").write_text("a file, no folder")
    else:
        sources = [tmp_path / "wrong.c"]
        sources[0].write_text("int f(void) { return x; }")
    with pytest.raises(library.CompileError) as caught:
        library.load(sources)
    assert "\n" not in str(caught.value)
    assert {"no compiler": "no C compiler", "wrong code": "wrong.c"}.get(trouble, "made no library") in str(
        caught.value
    )


@pytest.mark.parametrize("trouble", ["short", "empty", "other byte"])
def test_a_damaged_library_is_made_anew(tmp_path, monkeypatch, trouble):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (source := tmp_path / "answer.c").write_text("int answer(void) { return 42; }")
    told = []
    library.load([source])
    (made,) = (tmp_path / "qdreamer").iterdir()
    content = made.read_bytes()
    other = content[:100] + bytes([content[100] ^ 1]) + content[101:]
    made.unlink()  # what is loaded stays as it is
    made.write_bytes({"short": content[: len(content) // 2], "empty": b"", "other byte": other}[trouble])
    assert library.load([source], lambda: told.append("begins")).answer() == 42
    assert told == ["begins"]


def test_a_compiler_that_hangs_is_stopped_with_all_it_started(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(library, "LIMIT", 1.0)
    (tmp_path / "slow").write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\nsleep 600\n')
    (tmp_path / "slow").chmod(0o755)
    monkeypatch.setenv("CC", str(tmp_path / "slow"))
    begin = time.monotonic()
    with pytest.raises(library.CompileError, match="stopped after 1 s"):
        library.load(sorted(SOURCES.iterdir()))
    assert time.monotonic() - begin < 20  # not ten minutes, and not three times


@pytest.mark.processes
def test_threads_of_the_library_are_those_of_torch():
    """A second pool beside torch's would have both cores wait for each other."""
    code = (
        "import torch; from qdreamer import native; native.use(True); torch.set_num_threads(2);"
        "x = torch.randn(4096, 64); native.mlp(x, [native.Layer(x[:64], x[0], x[1])]); torch.mm(x, x.t());"
        "files = {line.split()[-1] for line in open('/proc/self/maps')};"
        "print(sum('gomp' in f or 'iomp' in f or 'libomp' in f for f in files))"
    )
    if not Path("/proc/self/maps").exists():
        pytest.skip("no list of loaded libraries")
    root = SOURCES.parents[1]
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=os.environ, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "1"


@pytest.mark.parametrize("name", list(Struct.known))
def test_structs_lie_in_memory_as_c_has_them(name):
    loaded, struct = load_library(), Struct.known[name]
    check_layout(loaded, name, struct)
    first, second, *rest = struct._fields_
    wrong = {
        "longer": [first, second, *rest, ("more", ctypes.c_int64)],
        "shorter": [first, second, *rest[:-1]],
        "of another type": [(first[0], ctypes.c_int8), (second[0], ctypes.c_int8), *rest],
    }
    for fields in wrong.values():
        changed = type("Changed", (ctypes.Structure,), {"_fields_": fields})
        with pytest.raises(LayoutError, match=name):
            check_layout(loaded, name, changed)
