"""Sealed files: no other byte is believed, and a kill leaves the old file or the new one."""

import errno
import io
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qdreamer.configs.sealed_file import DamagedError, read_json, verify, write_json, write_sealed


@given(content=st.binary(max_size=300), place=st.integers(0), bits=st.integers(1, 255))
def test_every_other_byte_is_noticed(tmp_path_factory, content, place, bits):
    path = tmp_path_factory.mktemp("sealed") / "file"
    write_sealed(path, lambda file: file.write(content))
    verify(path)
    sealed = path.read_bytes()
    assert sealed[: len(content)] == content
    changed = bytearray(sealed)
    changed[place % len(sealed)] ^= bits
    for damaged in (bytes(changed), sealed[:-1], sealed[1:], sealed + b"\0", b""):
        path.write_bytes(damaged)
        with pytest.raises(DamagedError):
            verify(path)


def test_torch_reads_sealed_archives(tmp_path):
    values = {"weight": torch.randn(50, 50), "step": 3}
    write_sealed(tmp_path / "a.pt", lambda file: torch.save(values, file))
    for mmap in (False, True):
        read = torch.load(tmp_path / "a.pt", weights_only=True, mmap=mmap)
        assert torch.equal(read["weight"], values["weight"])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(values=st.dictionaries(st.text().filter(lambda key: key != "sha256"), JSON, max_size=4))
def test_json_comes_back_or_is_refused(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("json") / "file.json"
    write_json(path, values)
    assert read_json(path) == values
    found = json.loads(path.read_text())
    path.write_text(json.dumps({**found, "another": 1}))
    with pytest.raises(DamagedError):
        read_json(path)


@pytest.mark.parametrize("text", ["", "[]", "3", "{", "null", "\xff"])
def test_what_is_no_object_is_refused(tmp_path, text):
    (path := tmp_path / "file.json").write_text(text, encoding="latin-1")
    with pytest.raises(DamagedError):
        read_json(path)


def test_objects_without_a_hash_are_read(tmp_path):
    (path := tmp_path / "file.json").write_text('{"step": 3}')
    assert read_json(path) == {"step": 3}


@pytest.mark.parametrize("save", [lambda file: file.write(b"new"), lambda file: torch.save({"new": 1}, file)])
def test_a_full_disk_is_one_error_and_leaves_the_old_file_alone(tmp_path: Path, save, monkeypatch):
    path = tmp_path / "file"
    write_sealed(path, lambda file: file.write(b"old"))
    monkeypatch.setattr(Path, "open", lambda path, mode: Full(io.FileIO(path, mode.replace("b", ""))))
    with pytest.raises(OSError, match="No space left"):
        write_sealed(path, save)
    monkeypatch.undo()
    verify(path)
    assert path.read_bytes().startswith(b"old")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


class Full(io.BufferedRandom):
    def write(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")
