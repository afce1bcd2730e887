"""Which runs may stand side by side. What does not match is refused, by name."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from qdreamer.analysis.run_form import CompareError
from qdreamer.analysis.run_record import RunRecord
from qdreamer.configs.schema import dotted

# Settings that every run of a comparison must share: the task, the budget, the examination.
SHARED = ("env", "steps", "evaluation")
# Settings that may differ between the seeds of one agent.
PER_SEED = ("seed", "runs", "resume", "device", "threads", "logging", "checkpoint")
_DEFAULT = "env.steps"  # of `steps`, which alone counts: it may change from one version to the next
_LISTED = 3  # runs that a message names


def check(runs: Sequence[RunRecord], allow_versions: bool = False) -> list[str]:
    """Return notes for the report. Raises CompareError for runs that must not be compared.

    Args:
        allow_versions: other code or libraries are noted instead of refused, and so are settings that the
            version of some runs did not have yet.
    """
    added = _check_shared(runs, allow_versions) | _check_agents(runs, allow_versions)
    _check_streams(runs)
    notes = _check_versions(runs, allow_versions) + _note_machines(runs)
    if added:
        notes.append(f"Settings that the version of some runs does not have: {', '.join(sorted(added))}.")
    return notes


def _check_shared(runs: Sequence[RunRecord], allow_versions: bool) -> set[str]:
    kinds = {"steps": "budgets", "evaluation": "evaluations", "env": "environments"}
    added: set[str] = set()
    for section in SHARED:
        configs = [{section: run.config.get(section)} for run in runs]
        added |= _refuse_other_settings(runs, configs, f"other {kinds[section]}", allow_versions)
    _refuse_split(runs, [tuple(run.steps.tolist()) for run in runs], "evaluations at other steps", False)
    return added


def _check_agents(runs: Sequence[RunRecord], allow_versions: bool) -> set[str]:
    """Check that all runs of an agent have the same settings and different seeds."""
    added: set[str] = set()
    agents: dict[str, list[RunRecord]] = defaultdict(list)
    for run in runs:
        agents[run.agent].append(run)
    for agent, members in agents.items():
        configs = [_settings(m.config) for m in members]
        what = f"{agent} was trained with different settings"
        added |= _refuse_other_settings(members, configs, what, allow_versions)
        times = Counter(run.seed for run in members)
        if doubled := [str(run.directory) for run in members if times[run.seed] > 1]:
            raise CompareError(f"{agent} has the same seed twice: {', '.join(doubled)}: remove one of them")
    return added


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    """Return what must be the same for all seeds; where replay keeps its rows need not."""
    replay = {key: value for key, value in config["replay"].items() if key != "mapped"}
    return {key: value for key, value in config.items() if key not in PER_SEED} | {"replay": replay}


def _check_streams(runs: Sequence[RunRecord]) -> None:
    """Check that no two runs logged the same to the digit: they would be one run."""
    seen: dict[str, RunRecord] = {}
    for run in runs:
        other = seen.setdefault(run.stream, run)
        if other is not run:
            differing = "seed" if other.agent == run.agent else "setting that tells them apart"
            raise CompareError(
                f"{other.directory} and {run.directory} have identical metrics: one is a copy, or the "
                f"{differing} has no effect; remove one"
            )


def _check_versions(runs: Sequence[RunRecord], allow: bool) -> list[str]:
    known = [run for run in runs if run.versions is not None]
    if not known:
        return ["No run recorded the versions of code and libraries: that they agree was not checked."]
    notes = []
    if len(known) < len(runs):
        unknown = [run for run in runs if run.versions is None]
        text = f"{_names(unknown)} recorded no versions"
        if not allow:
            raise CompareError(f"{text}, so nobody knows whether they match: --allow-versions compares them")
        notes.append(f"{text}.")
    values: dict[str, dict[str | None, list[RunRecord]]] = defaultdict(lambda: defaultdict(list))
    for run in known:
        for name, version in run.versions or ():
            values[name][version].append(run)
    for name, found in values.items():
        if len(found) > 1:
            text = "; ".join(f"{name} {version}: {_names(those)}" for version, those in found.items())
            if not allow:
                raise CompareError(
                    f"other versions: {text}. Train them anew, or compare all the same with --allow-versions"
                )
            notes.append(f"**Versions differ**: {text}.")
    return notes


def _note_machines(runs: Sequence[RunRecord]) -> list[str]:
    processors = sorted({p for run in runs for p in run.processors})
    threads = sorted({t for run in runs for t in run.threads})
    notes = []
    if len(processors) > 1:
        notes.append(f"Runs were made on different processors ({'; '.join(processors)}): compare no times.")
    if len(threads) > 1:
        notes.append(f"Runs were made on {' or '.join(map(str, threads))} threads: compare no times.")
    return notes


def _refuse_other_settings(
    runs: Sequence[RunRecord], configs: Sequence[dict[str, Any]], what: str, allow_versions: bool
) -> set[str]:
    """Return the settings that only some of the runs' configs have, where other versions are allowed.

    Raises CompareError that names the first setting in which the configs differ.
    """
    values = [{k: v for k, v in dotted(config).items() if not isinstance(v, dict)} for config in configs]
    added: set[str] = set()
    for key in sorted({key for value in values for key in value} - {_DEFAULT}):
        having = [(run, value[key]) for run, value in zip(runs, values, strict=True) if key in value]
        if allow_versions and len(having) < len(runs):
            added.add(key)
        else:
            having = [(run, value.get(key)) for run, value in zip(runs, values, strict=True)]
        found = [_frozen(value) for _, value in having]
        _refuse_split([run for run, _ in having], found, f"{what}: {key}")
    return added


def _frozen(value: Any) -> Any:
    """Return a setting so that it can be a key; a maze, say, is a list of lists."""
    if isinstance(value, dict):
        return tuple((key, _frozen(inner)) for key, inner in sorted(value.items(), key=repr))
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def _refuse_split(
    runs: Sequence[RunRecord], values: Sequence[Any], what: str, show_values: bool = True
) -> None:
    """Raises CompareError that names the smaller parties, when the values are not all equal."""
    groups: dict[Any, list[RunRecord]] = defaultdict(list)
    for run, value in zip(runs, values, strict=True):
        groups[value].append(run)
    if len(groups) == 1:
        return
    parties = sorted(groups.items(), key=lambda group: len(group[1]))
    texts = [f"{value} in {_names(those)}" if show_values else _names(those) for value, those in parties]
    raise CompareError(f"these runs do not match, {what} ({' against '.join(texts)}): leave one kind out")


def _names(runs: Sequence[RunRecord]) -> str:
    names = [f"{run.agent}/seed_{run.seed}" for run in runs]
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
