"""The component monitor: TensorBoard's CUSTOM SCALARS tab, one section for each question about a run.

Charts name tags of `metrics.jsonl` by regular expressions; those of parts that a run does not have are left
out. Runs with the same layout share charts, so agents lie over each other.
"""

import re
from collections.abc import Iterable
from typing import cast

Layout = dict[str, dict[str, list[object]]]


def lines(*tags: str) -> list[object]:
    return ["Multiline", list(tags)]


LAYOUT: Layout = {
    "Learning": {
        "return on unseen episodes, 95 % interval": [
            "Margin",
            ["eval/return", "eval/return_low", "eval/return_high"],
        ],
        "world model: error 15 steps ahead, beside persistence": lines(
            "open_loop/mse_15", "open_loop/persistence_15"
        ),
    },
    "Components: what they cost and how hard they are pulled": {
        "seconds of each part since the last line": lines(
            "time/(env|acting|replay|world_model|imagination|behaviour|backward|optimizer|search|quantum"
            "|evaluation)$"
        ),
        "gradient norm before clipping": lines("gradient_norm/.*"),
    },
    "Attention": {
        "entropy of each head (nats)": lines("attention/entropy/.*"),
        "keys that matter, 1/Σw²": lines("attention/effective_keys/.*"),
        "age of what is attended to (steps)": lines("attention/age/.*"),
        "share of attention beyond the batch": lines("attention/beyond_batch/.*"),
        "gradient norm of each head": lines("attention/gradient_norm/.*"),
        "what heads learned: photons, or steps of memory": lines(
            "attention/photons/.*", "attention/memory_steps/.*"
        ),
    },
    "Replay": {
        "entropy of the draws (1: uniform)": lines("replay/entropy"),
        "effective sample size (1: all weights equal)": lines("replay/effective_sample_size"),
        "share of steps replayed at least once": lines("replay/coverage"),
        "pool of shots: distance to the target": lines("pool/distance"),
    },
    "Hybrid optimizer": {
        "approximation ratio: chosen bits, mean sample": lines(
            "optimizer/approximation_ratio", "optimizer/approximation_ratio_mean"
        ),
        "share of searches that were accepted": lines("optimizer/accepted"),
        "decrease of the loss on fresh data: base step, taken step": lines(
            "optimizer/decrease_base", "optimizer/decrease_taken"
        ),
        "multiplier of each block": lines("optimizer/multiplier/.*"),
    },
}


def layout(tags: Iterable[str]) -> Layout:
    """Return the sections and charts that show at least one of the tags; a chart's patterns, too."""
    tags = list(tags)

    def shown(pattern: str) -> bool:
        return any(re.match(pattern, tag) for tag in tags)

    found: Layout = {}
    for section, charts in LAYOUT.items():
        for title, (kind, patterns) in charts.items():
            kept = [pattern for pattern in cast(list[str], patterns) if shown(pattern)]
            if kept:
                found.setdefault(section, {})[title] = [kind, patterns if kind == "Margin" else kept]
    return found
