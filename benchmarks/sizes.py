"""Parameters of whole agents by size and kind of environment: docs/sizes.md.

`python -m benchmarks.sizes > docs/sizes.md`.
"""

import torch

from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.training.training import make_dreamer
from qdreamer.envs.actions import ActionSpec
from qdreamer.envs.entries import Categorical, Image, Spec, Text, Vector

SPACES: dict[str, tuple[dict[str, Spec], ActionSpec]] = {
    "CartPole: vector of 4, one of 2": ({"observation": Vector(4)}, ActionSpec.discrete(2)),
    "HalfCheetah: vector of 17, 6 numbers": ({"observation": Vector(17)}, ActionSpec.continuous(6)),
    "MiniGrid: image 7×7×3, direction, text; one of 7": (
        {"direction": Categorical((4,)), "image": Image(7, 7, 3), "mission": Text(64)},
        ActionSpec.discrete(7),
    ),
    "Atari: image 64×64×3, one of 18": ({"observation": Image(64, 64, 3)}, ActionSpec.discrete(18)),
}
SIZES = ("tiny", "1M", "12M", "50M")
PAGE = """# Sizes

`world_model=tiny|1M|12M|50M` sets widths as in the paper, where the names count the parameters of an agent \
for images of 64×64. What is really learned depends on what goes in and comes out, and on the parts: \
trainable parameters of the whole agent, world model, actor and critic. So 12M is 9.7 million on CartPole.

This page is generated: `python -m benchmarks.sizes > docs/sizes.md`.
"""


def count(size: str, agent: str, space: str) -> int:
    """Return how many numbers an agent learns; made without memory for them."""
    config = load_config([f"world_model={size}", f"agent={agent}"])
    with torch.device("meta"):
        made = make_dreamer(config, *SPACES[space])
    return sum(p.numel() for p in made.trainable())


def page() -> str:
    """Return docs/sizes.md."""
    parts = [PAGE]
    for agent in ("classical", "hybrid"):
        parts.append(f"\n## agent={agent}\n\n| environment | {' | '.join(SIZES)} |")
        parts.append("|---" * (len(SIZES) + 1) + "|")
        for space in SPACES:
            counts = " | ".join(f"{count(size, agent, space):,}" for size in SIZES)
            parts.append(f"| {space} | {counts} |")
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    print(page(), end="")
