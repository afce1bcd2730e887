"""Checkpoints and their shards: whole after a kill at any instant, refused where they do not fit."""

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from qdreamer.agents.distributed.ranks import SINGLE_PROCESS, SingleProcess
from qdreamer.agents.runs import checkpoint


class Rank(SingleProcess):
    """One of two ranks; they are called one after the other."""

    size = 2

    def __init__(self, rank: int) -> None:
        self.rank = rank


RANKS = Rank(1), Rank(0)


def save_all(directory: Path, step: int) -> None:
    for ranks in RANKS:
        checkpoint.save(directory, {"step": step}, {"of": [ranks.rank, step]}, ranks)


def load_all(directory: Path) -> int:
    """The step of a checkpoint whose shards are all there, and of the same step."""
    state = checkpoint.load(directory)
    for ranks in RANKS:
        shard = checkpoint.load_shard(directory, state, ranks)
        assert shard["of"] == [ranks.rank, state["step"]]
    return int(state["step"])


class Killer:
    """Raises at the n-th change of the file system, before it is made."""

    def __init__(self, patch: pytest.MonkeyPatch, fatal: int) -> None:
        self.changes, self._fatal = 0, fatal
        for owner, name in (
            (Path, "replace"), (Path, "unlink"), (torch, "save"), (os, "fsync"), (os, "link"),
        ):  # fmt: skip
            patch.setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, change: Any) -> Any:
        def counted(*arguments: Any, **keywords: Any) -> Any:
            self.changes += 1
            if self.changes == self._fatal:
                raise KeyboardInterrupt
            return change(*arguments, **keywords)

        return counted


def test_a_kill_at_any_instant_leaves_a_checkpoint_with_all_its_shards(tmp_path: Path) -> None:
    found = []
    for fatal in range(1, 100):
        directory = tmp_path / str(fatal)
        directory.mkdir()
        save_all(directory, 1)
        with pytest.MonkeyPatch.context() as patch:
            killer = Killer(patch, fatal)
            with contextlib.suppress(KeyboardInterrupt):
                save_all(directory, 2)
            finished = killer.changes < fatal
        found.append(load_all(directory))
        save_all(directory, 3)
        assert load_all(directory) == 3
        before = found[-1]  # the step that the previous checkpoint, or the newest, was of
        shards = {f"shard_{rank}_step_{step}.pt" for rank in (0, 1) for step in (before, 3)}
        assert {path.name for path in directory.iterdir()} == {checkpoint.NAME, checkpoint.PREVIOUS} | shards
        if finished:
            break
    assert found == sorted(found)
    assert set(found) == {1, 2}
    assert len(found) > 10


@pytest.mark.parametrize("file", [checkpoint.NAME, "shard_1_step_2.pt"])
@pytest.mark.parametrize("trouble", ["other byte", "short", "longer", "missing"])
def test_a_damaged_file_gives_way_to_the_checkpoint_before(
    tmp_path: Path, file: str, trouble: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save_all(tmp_path, 1)
    save_all(tmp_path, 2)
    damage(tmp_path / file, trouble)
    assert load_all(tmp_path) == 1
    assert capsys.readouterr().err.count("warning") == 1
    for ranks in reversed(RANKS):
        assert checkpoint.restore(tmp_path, ranks)["step"] == 1
    save_all(tmp_path, 3)
    damage(tmp_path / checkpoint.NAME, "other byte")
    assert load_all(tmp_path) == 1  # the damaged one was not kept as the one before


def damage(path: Path, trouble: str) -> None:
    content = bytearray(path.read_bytes())
    if trouble == "missing":
        path.unlink()
        return
    if trouble == "other byte":
        content[len(content) // 3] ^= 4
    path.write_bytes({"short": content[:-1], "longer": content + b"\0"}.get(trouble, content))


def test_without_a_sound_checkpoint_it_says_so(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, {"step": 1}, {})
    damage(tmp_path / checkpoint.NAME, "short")
    with pytest.raises(checkpoint.CheckpointError, match=r"damaged .* no sound one before it; moving"):
        checkpoint.load(tmp_path)


def test_another_number_of_ranks_is_refused(tmp_path: Path) -> None:
    save_all(tmp_path, 1)
    with pytest.raises(checkpoint.CheckpointError, match=r"on 2 processes, not 1: .* --nproc-per-node=2"):
        checkpoint.load_shard(tmp_path, checkpoint.load(tmp_path), SINGLE_PROCESS)
    checkpoint.save(tmp_path, {"step": 1}, {"of": 7})
    assert checkpoint.load_shard(tmp_path, checkpoint.load(tmp_path))["of"] == 7
    with pytest.raises(checkpoint.CheckpointError, match="on 1 process, not 2: go on with python train"):
        checkpoint.load_shard(tmp_path, checkpoint.load(tmp_path), RANKS[0])
