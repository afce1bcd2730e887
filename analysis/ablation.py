"""What an agent says about the hybrid: a part taken out, one put in, a control, or another choice.

Told from the settings themselves, not from names: an agent is a variant of another if all but one part
of their settings agree.
"""

from dataclasses import dataclass
from typing import Any

from qdreamer.analysis.matching import PER_SEED, SHARED

PARTS = ("attention", "replay", "optimizer")
SIZES = ("deter", "hidden", "blocks", "layers")  # of a sequence model
_OTHER = "other settings"


@dataclass(frozen=True)
class Comparison:
    """Two agents, the one with the part first."""

    kind: str
    first: str
    second: str


def parts(config: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of each part, comparable. A GRU has no attention."""
    sequence = config["sequence"]
    attends = "head" in sequence
    sizes = {k: sequence[k] for k in SIZES if k in sequence}
    own = {
        "attention": {
            "sequence": _without(sequence, *sizes),
            "attention": config["attention"] if attends else None,
            # A transformer needs the decoupled posterior, and that one its own weight of the KL divergence.
            "posterior": config["world_model"]["posterior"],
            "representation": config["world_model"]["loss_scales"]["representation"],
        },
        "replay": _without(config["replay"], "mapped"),
        "optimizer": config["optimizer"],
    }
    rest = {
        **_without(config, *own, *PER_SEED, *SHARED),
        "agent": _without(config["agent"], "name"),
        "world_model": _without(config["world_model"], "posterior", "loss_scales"),
        "loss_scales": _without(config["world_model"]["loss_scales"], "representation"),
        "sequence": {"name": sequence["name"], **sizes},
    }
    return {**own, _OTHER: rest}


def _without(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in names}


def differing(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Return the parts in which two agents differ. Different sequence models may differ in width."""
    names = [name for name in a if a[name] != b[name]]
    x, y = a["attention"], b["attention"]
    if "attention" in names and _without(x, "representation") == _without(y, "representation"):
        names[names.index("attention")] = _OTHER  # the weight alone is a setting
        return list(dict.fromkeys(names))
    x, y = a[_OTHER], b[_OTHER]
    if x["sequence"]["name"] != y["sequence"]["name"] and _without(x, "sequence") == _without(y, "sequence"):
        names.remove(_OTHER)
    return names


def classify(
    agent: str, configs: dict[str, dict[str, Any]], candidate: str | None, baseline: str
) -> Comparison:
    """Return the one comparison that `agent` is there for."""
    own, base = parts(configs[agent]), parts(configs[baseline])
    if candidate is None or agent == candidate:
        return Comparison("against the baseline", agent, baseline)
    full = parts(configs[candidate])
    from_full, from_base = differing(own, full), differing(own, base)
    if len(from_full) == 1 and from_full[0] in PARTS:
        part = from_full[0]
        if full[part] == base[part]:  # both agents share it: nothing to take out
            return Comparison(f"{candidate}, other {part}", agent, candidate)
        kind = f"{candidate} − {part}" if own[part] == base[part] else f"control of {part}"
        return Comparison(kind, candidate, agent)
    if len(from_base) == 1 and from_base[0] in PARTS:
        part = from_base[0]
        kind = f"{baseline} + {part}" if own[part] == full[part] else f"{baseline}, other {part}"
        return Comparison(kind, agent, baseline)
    for near, differences in ((candidate, from_full), (baseline, from_base)):
        if differences == [_OTHER]:
            return Comparison(f"{near}, other size or settings", candidate, agent)
    return Comparison("against the baseline", agent, baseline)
