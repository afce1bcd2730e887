"""Controls: what remains of an attention if its matching of queries and keys is taken away.

If an agent with one of them learns as well as one with the real thing, the matching was worth nothing.
"""

from qdreamer.worldmodel.attention.coherent import Coherent, CoherentConfig
from qdreamer.worldmodel.attention.config import ATTENTION, AttentionConfig
from qdreamer.worldmodel.attention.softmax import Softmax


@ATTENTION.register("uniform", AttentionConfig)
class Uniform(Softmax):
    """`uniform`: κ = 1. All steps that may be seen count alike, whatever is in them."""

    def __init__(self, heads: int, width: int) -> None:
        super().__init__(heads, width)
        self.factor = 0.0


@ATTENTION.register("random_keys", CoherentConfig)
class RandomKeys(Coherent):
    """`random_keys`: coherent attention whose keys come from a random projection that never learns."""

    learned_keys = False
