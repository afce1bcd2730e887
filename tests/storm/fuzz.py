"""Command lines that are put together at random: each is accepted, or refused in one line."""

import contextlib
import io
import random
from collections.abc import Callable

from qdreamer.agents.cli import command_line
from qdreamer.agents.cli.composition import compose_all
from qdreamer.agents.cli.overrides import groups
from qdreamer.configs.schema import dotted

VALUES = [
    "0", "1", "-1", "3", "1e9", "1e-9", "1e400", "nan", "inf", "-inf", "true", "false", "null", "~", "''",
    "[]", "[1]", "[1,2,3]", "{}", "{a: 1}", "x", "é", "a=b", "${seed}", "${nothing}", "1,2", "range(0,3)",
    "'a b'", "\"", "'", "[", "{", ":", "%", "../x", "hybrid", "CartPole", "9" * 40, "choice(a,b)",
]  # fmt: skip
WORDS = [
    "-m", "--cfg", "job", "--help", "--repair", "--resolve", "--unknown", "-x", "=", "", "seed", "+seed=1",
    "++seed=1", "~seed", "~agent", "agent=[hybrid,classical]", "hydra.run.dir=x", "+new=1", "resume=nowhere",
    "seed=1 seed=2", "env.kwargs.gravity=1", "+env.kwargs.x=1", "env.id=No-v0", "env=gym",
]  # fmt: skip


def keys() -> list[str]:
    """Return all settings, dotted, and all groups."""
    return [*dotted(compose_all([])), *groups()]


def random_line(known: list[str], chance: random.Random) -> list[str]:
    words = []
    for _ in range(chance.randint(1, 5)):
        key = chance.choice(known)
        if chance.random() < 0.2:
            key = "".join(chance.sample(key, len(key)))
        choices = groups().get(key)
        value = chance.choice([*(choices or []), *VALUES] if chance.random() < 0.5 else VALUES)
        words.append(chance.choice(WORDS) if chance.random() < 0.25 else f"{key}={value}")
    return words


def tracebacks(count: int, chance: random.Random, tell: Callable[[str], None] = print) -> int:
    """Return how many of so many command lines end in anything but a plan or one line."""
    known, bad = keys(), 0
    for _ in range(count):
        words = random_line(known, chance)
        error = io.StringIO()
        try:
            with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
                _prepare(words)
        except SystemExit as end:
            if end.code and error.getvalue().count("\n") != 1:
                bad += 1
                tell(f"{words}: {error.getvalue()}")
        except Exception as problem:
            bad += 1
            tell(f"{words}: {type(problem).__name__}: {problem}")
    return bad


def _prepare(words: list[str]) -> None:
    """Do what the command does before it trains, with its own answers to errors."""
    try:
        command_line.prepare(words)
    except command_line.REFUSALS as error:
        command_line.fail(error)
