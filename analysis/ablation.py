"""What each agent says about the hybrid's parts: hybrid minus one, classical plus one, or a control.

Told from the settings themselves, not from names: an agent is a variant of another if all but one part
of their settings agree.
"""

from dataclasses import dataclass
from typing import Any

from qdreamer.analysis.matching import PER_SEED, SHARED, flat

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
    transformer = sequence["name"] == "transformer"
    sizes = {k: sequence[k] for k in SIZES if k in sequence}
    own = {
        "attention": {
            "sequence": {k: v for k, v in sequence.items() if k not in sizes},
            "attention": config["attention"] if transformer else None,
            # Attention needs the decoupled posterior, and that one its own weight of the KL divergence.
            "posterior": config["world_model"]["posterior"],
            "representation": config["world_model"]["loss_scales"]["representation"],
        },
        "replay": config["replay"],
        "optimizer": config["optimizer"],
    }
    rest = {k: v for k, v in config.items() if k not in (*own, *PER_SEED, *SHARED, "sequence")}
    rest["agent"] = {k: v for k, v in rest["agent"].items() if k != "name"}
    rest["world_model"] = {
        k: v for k, v in rest["world_model"].items() if k not in ("posterior", "loss_scales")
    }
    rest["loss_scales"] = {
        k: v for k, v in config["world_model"]["loss_scales"].items() if k != "representation"
    }
    rest["sequence"] = {"name": sequence["name"], **sizes}
    return {name: dict(flat(values)) for name, values in {**own, _OTHER: rest}.items()}


def differing(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """Return the parts in which two agents differ. Different sequence models may differ in width."""
    names = [name for name in a if a[name] != b[name]]
    if "attention" in names and _keys(a["attention"], b["attention"]) == {"representation"}:
        names[names.index("attention")] = _OTHER  # the weight alone is a setting
        return list(dict.fromkeys(names))
    if _OTHER in names and a[_OTHER]["sequence.name"] != b[_OTHER]["sequence.name"]:
        without = [{k: v for k, v in x[_OTHER].items() if not k.startswith("sequence.")} for x in (a, b)]
        if without[0] == without[1]:
            names.remove(_OTHER)
    return names


def _keys(a: dict[str, Any], b: dict[str, Any]) -> set[str]:
    """Return the keys whose values differ."""
    return {key for key in a.keys() | b.keys() if a.get(key) != b.get(key)}


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
        kind = f"{candidate} − {part}" if own[part] == base[part] else f"control of {part}"
        return Comparison(kind, candidate, agent)
    if len(from_base) == 1 and from_base[0] in PARTS:
        part = from_base[0]
        kind = f"{baseline} + {part}" if own[part] == full[part] else f"{baseline}, other {part}"
        return Comparison(kind, agent, baseline)
    if from_full == [_OTHER]:
        return Comparison(f"{candidate}, other size or settings", candidate, agent)
    if from_base == [_OTHER]:
        return Comparison(f"{baseline}, other size or settings", candidate, agent)
    return Comparison("against the baseline", agent, baseline)
