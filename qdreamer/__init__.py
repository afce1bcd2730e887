"""Hybrid quantum-classical reinforcement learning with world models.

The Python face: docs/api.md shows each of these in use.
"""

from importlib import import_module
from importlib.metadata import version
from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qdreamer.agents.cli.closure_optimizer import HybridOptimizer
    from qdreamer.agents.cli.functions import TrainedRun, compare, solve_qubo, train
    from qdreamer.agents.cli.replay_buffer import Replay
    from qdreamer.agents.interaction.export import Exported
    from qdreamer.agents.interaction.player import Imagined, Player
    from qdreamer.agents.training.loading import load
    from qdreamer.worldmodel.attention.multihead import QuantumMultiheadAttention

# In a checkout this folder comes before the installed package, which knows where the rooms lie.
__path__ = extend_path(__path__, __name__)
__version__ = version("qdreamer")

_FACE = {
    "Exported": "qdreamer.agents.interaction.export",
    "HybridOptimizer": "qdreamer.agents.cli.closure_optimizer",
    "Imagined": "qdreamer.agents.interaction.player",
    "Player": "qdreamer.agents.interaction.player",
    "QuantumMultiheadAttention": "qdreamer.worldmodel.attention.multihead",
    "Replay": "qdreamer.agents.cli.replay_buffer",
    "TrainedRun": "qdreamer.agents.cli.functions",
    "compare": "qdreamer.agents.cli.functions",
    "load": "qdreamer.agents.training.loading",
    "solve_qubo": "qdreamer.agents.cli.functions",
    "train": "qdreamer.agents.cli.functions",
}
__all__ = [
    "Exported", "HybridOptimizer", "Imagined", "Player", "QuantumMultiheadAttention", "Replay", "TrainedRun",
    "compare", "load", "solve_qubo", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import what is asked for: torch takes seconds, and commands that need none of it answer at once."""
    if name not in _FACE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_FACE[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
