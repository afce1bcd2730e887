"""What a sequence model may keep of an episode beside its recurrent state.

A step reads twice. Before its observation it asks for what the prior needs to know: m_t, which joins h_t to
[h_t, m_t]. After it, for what this observation calls for: m′_t, in [h_t, m′_t, z_t], from which all else is
predicted.
"""

from typing import Any, Protocol

from torch import Tensor


class Memory(Protocol):
    """Shapes as in `interface.SequenceModel`; W = D + the width of a read. States are pytrees of tensors."""

    width: int  # of a read
    context: int  # rows before a replayed sequence that its state is made of, at least one

    def initial(self, batch: int) -> Any:
        """Return the state before the first step of an episode."""

    def stored(self, state: Tensor, stoch: Tensor, action: Tensor, segments: Tensor) -> Any:
        """Return the state after c steps as replay keeps them: (B, c, ·) each.

        Args:
            state: packed h. stoch: (B, c, S), classes. action: what led to each step, zero for an episode's
                first.
            segments: (B, c), 0 for steps of the episode that goes on, −1 for others.
        """

    def observe(
        self, h: Tensor, stoch: Tensor, before: Tensor, action: Tensor, is_first: Tensor, state: Any
    ) -> tuple[Tensor, Tensor, Any]:
        """Read at T steps with latents z_t, given z before them (B, S·K).

        Returns [h_t, m_t] and [h_t, m′_t] (B, T, W), and the states.
        """

    def last(self, states: Any) -> Any:
        """Return the state after the last of the observed steps, to go on from."""

    def filtered(self, kept: tuple[Tensor, Tensor, Tensor] | None, state: Any) -> Any:
        """Return the state after a step that C has taken from `state`, which has `kept` this of it."""

    def select(self, states: Any, b: Tensor | None, t: Tensor) -> Any:
        """Return states to imagine from, as `interface.SequenceModel.select`."""

    def ask(self, h: Tensor, before: Tensor, action: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Read at an imagined step before its latent is drawn: [h, m] (N, W), and what `append` needs."""

    def append(self, stoch: Tensor, asked: Any) -> tuple[Tensor, Any]:
        """Keep that step, now with its latent, and read again: [h, m′] (N, W), state."""


class NoMemory:
    """For models whose state is all that they keep."""

    width = 0
    context = 1

    def initial(self, batch: int) -> tuple[()]:
        return ()

    def stored(self, state: Tensor, stoch: Tensor, action: Tensor, segments: Tensor) -> tuple[()]:
        return ()

    def observe(
        self, h: Tensor, stoch: Tensor, before: Tensor, action: Tensor, is_first: Tensor, state: Any
    ) -> tuple[Tensor, Tensor, tuple[()]]:
        return h, h, ()

    def last(self, states: tuple[()]) -> tuple[()]:
        return ()

    def filtered(self, kept: tuple[Tensor, Tensor, Tensor] | None, state: tuple[()]) -> tuple[()]:
        return ()

    def select(self, states: tuple[()], b: Tensor | None, t: Tensor) -> tuple[()]:
        return ()

    def ask(self, h: Tensor, before: Tensor, action: Tensor, state: tuple[()]) -> tuple[Tensor, Tensor]:
        return h, h

    def append(self, stoch: Tensor, asked: Tensor) -> tuple[Tensor, tuple[()]]:
        return asked, ()
