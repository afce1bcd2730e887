"""The form of a run's files, as far as comparisons believe them: what has another is refused in one line."""

from pathlib import Path
from typing import Annotated, Any, NotRequired, TypeVar

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    with_config,
)
from typing_extensions import TypedDict  # of pydantic's; typing's serves from Python 3.12 on

T = TypeVar("T")


def _no_truth_value(value: object) -> object:
    if isinstance(value, bool):  # which Python counts as a number
        raise ValueError("it should be a number")
    return value


_Count = Annotated[int, Field(ge=0)]
_Number = Annotated[float, Field(strict=True, allow_inf_nan=True), BeforeValidator(_no_truth_value)]
_Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_OPEN = ConfigDict(strict=True, extra="allow")  # newer and older versions know other entries as well


class CompareError(ValueError):
    """Runs that cannot be read or compared; one line that names them and the fix."""


class UnfinishedError(CompareError):
    """A run that is still to be trained, to its end or at all."""


def _with_step(line: dict[str, float | None]) -> dict[str, float | None]:
    step = line.get("step")
    if step is None or step < 0 or step != int(step):
        raise ValueError("a line needs a step")
    return line


Line = Annotated[dict[str, _Number | None], AfterValidator(_with_step)]
"""A line of metrics.jsonl: a step, and numbers by name; null stands for one that is not finite."""


@with_config(_OPEN)
class _Environment(TypedDict):
    id: str
    solved: float | None
    hide: NotRequired[list[int] | None]


@with_config(_OPEN)
class _Evaluation(TypedDict):
    every: _Count
    episodes: _Count
    seed: _Count


@with_config(_OPEN)
class _LossScales(TypedDict):
    representation: float


@with_config(_OPEN)
class _Sequence(TypedDict):
    name: str


@with_config(_OPEN)
class _WorldModel(TypedDict):
    posterior: str
    loss_scales: _LossScales


@with_config(_OPEN)
class RunConfig(TypedDict):
    """Those entries of config.yaml that comparisons look into."""

    seed: _Count
    steps: Annotated[int, Field(gt=0)]
    env: _Environment
    evaluation: _Evaluation
    agent: dict[str, Any]
    world_model: _WorldModel
    sequence: _Sequence
    attention: dict[str, Any]
    replay: dict[str, Any]
    optimizer: dict[str, Any]


@with_config(_OPEN)
class _Session(TypedDict):
    versions: dict[str, str | None]
    commit: str | None
    machine: dict[str, Any]
    threads: NotRequired[_Count]  # runs of earlier versions had one


@with_config(_OPEN)
class _Parameters(TypedDict):
    classical: _Count
    quantum: _Count


@with_config(_OPEN)
class _Quantum(TypedDict):
    circuits: _Count
    shots: _Count
    simulator_seconds: _Amount
    qpu_seconds: _Amount
    seconds: _Amount


@with_config(_OPEN)
class RunSummary(TypedDict):
    """Those entries of summary.json that comparisons look into."""

    updates: _Count
    seconds: _Amount
    parameters: _Parameters
    quantum: _Quantum
    sessions: list[_Session]


LINE, CONFIG, SUMMARY = (TypeAdapter[Any](form) for form in (Line, RunConfig, RunSummary))


def formed(adapter: TypeAdapter[T], values: object, path: Path | str, fix: str) -> T:
    """Return values that have the form. Raises CompareError, which names the first entry that has not."""
    try:
        return adapter.validate_python(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        entry = ".".join(str(part) for part in first["loc"]) or "all of it"
        shown = "" if first["type"] == "missing" else f" ({repr(first['input'])[:40]})"
        message = first["msg"][0].lower() + first["msg"][1:]
        raise CompareError(f"{path} is damaged: {entry}{shown}: {message}; {fix}") from error
