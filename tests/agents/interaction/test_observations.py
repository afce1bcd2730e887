"""Observations that a caller hands in, as rows."""

from typing import Any

import numpy as np
from gymnasium import Space, spaces

from qdreamer.agents.interaction.observations import rows


class Mission(Space[str]):
    """Strings without a shape, as MiniGrid's missions."""

    def __init__(self) -> None:
        super().__init__(dtype=str)

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        return "get the key"

    def contains(self, x: Any) -> bool:
        return isinstance(x, str)


def test_strings_of_any_space_are_words() -> None:
    space = spaces.Dict({"mission": Mission(), "place": spaces.Box(0.0, 1.0, (2,))})
    one: dict[str, Any] = {"mission": "open the door", "place": np.zeros(2)}
    assert rows(space, one)[1]
    several = {"mission": ["open the door"] * 3, "place": np.zeros((3, 2))}
    found, alone = rows(space, several)
    assert not alone
    assert [row["mission"] for row in found] == several["mission"]
