"""What every sequence model offers, so that they are drop-ins for each other.

A sequence model turns what happened before step t (the latent z_{t-1} and the action a_{t-1})
into a deterministic state h_t. `is_first` is the only reset convention: where it is 1, the state,
z_{t-1} and a_{t-1} all count as zero.

Contract (property-tested): `observe` equals folding `step`; nothing crosses an episode boundary;
a change at time t alters nothing before t.
"""

from collections.abc import Iterator
from typing import Any, Literal, Protocol

from pydantic import Field
from torch import Tensor

from qdreamer import native
from qdreamer.configs.registry import PartConfig, Registry
from qdreamer.configs.schema import WIDEST, Float, Int, settings
from qdreamer.quantum.config import QuantumConfig
from qdreamer.worldmodel.attention.config import AttentionConfig
from qdreamer.worldmodel.sequence_models.layer_view import LayerView
from qdreamer.worldmodel.sequence_models.memory import Memory

State = Any
"""A pytree of fixed-shape tensors; the block GRU's is one tensor (B, D)."""

Posterior = Literal["coupled", "decoupled"]
"""q(z|h, o), or q(z|o), with which all steps are filtered in parallel (`worldmodel.rssm`)."""


@settings
class SequenceConfig(PartConfig):
    """What every sequence model has. Values live in configs/sequence."""

    posterior: Posterior  # this and the next are proposals that `world_model` takes over
    representation_scale: Float = Field(ge=0.0)  # weight of the loss that draws posteriors to priors
    deter: Int = Field(ge=1, le=WIDEST)  # D, width of h


class SequenceModel(Protocol):
    deter: int  # D, width of h
    memory: Memory  # of the episode, beside the state

    @classmethod
    def make(
        cls, config: Any, attention: AttentionConfig, stoch: int, action: int, quantum: QuantumConfig | None
    ) -> "SequenceModel":
        """Return the model of its config, for latents of S·K numbers and actions of A.

        Args:
            attention: of models that attend. quantum: where its circuits run.
        """

    def initial(self, batch: int) -> State:
        """Return the state before the first step of an episode."""

    def action_embedding(self, action: Tensor, is_first: Tensor | None) -> Tensor:
        """Return the action's contribution to the step, for all times at once: (…, A), (…) → (…, ·)."""

    def step(
        self, stoch: Tensor, action_embedding: Tensor, is_first: Tensor | None, state: State
    ) -> tuple[Tensor, State]:
        """Take one step: stoch (B, S·K), action_embedding (B, ·), is_first (B) or None → h (B, D), state."""

    def observe(self, stoch: Tensor, action: Tensor, is_first: Tensor, state: State) -> tuple[Tensor, State]:
        """Take all steps with known latents: (B, T, S·K), (B, T, A), (B, T) → h (B, T, D), states."""

    def inspect(self, h: Tensor, stoch: Tensor, action: Tensor, is_first: Tensor) -> list[LayerView]:
        """Return what each layer of attention did in episodes observed from the beginning; none without.

        Takes h (B, T, D), z (B, T, S·K) and what led to each step (B, T, A). Gradient norms are those of the
        last backward pass, if there was one.
        """

    def last(self, states: State) -> State:
        """Return the state after the last of the observed steps, to go on from."""

    def select(self, states: State, b: Tensor | None, t: Tensor) -> State:
        """Return states to imagine from, as one batch of N.

        After steps t (B, S) of every sequence, N = B·S, whose past the S futures of a sequence may
        share; or, with b, after steps t (N,) of sequences b (N,). May be stepped from once only.
        """

    def native_weights(self) -> object:
        """Return the weights for kernels that know this model, in a type of `native`; None if none does."""

    def schedule(self, update: int) -> None:
        """Take note of the number of the update that comes, for what follows a schedule."""

    def native_rollout(
        self, state: State, memory: Any, horizon: int
    ) -> native.GRURollout | native.TransformerRollout | None:
        """Return what C needs to imagine `horizon` steps from states of both `select`s, or None."""

    def native_filter(self, memory: Any) -> native.Recurrence | None:
        """Return what C needs to take one step with a memory's state before it, or None."""

    def pack(self, state: State) -> Tensor:
        """Return what replay keeps of a state, (B, ·), or of a trajectory's states, (B, T, ·)."""

    def unpack(self, packed: Tensor) -> State:
        """Return the state to go on with from (B, ·)."""


SEQUENCE_MODELS: Registry[type[SequenceModel]] = Registry(
    "sequence_models", "qdreamer.worldmodel.sequence_models", "gru"
)


def make_sequence(
    config: SequenceConfig,
    attention: AttentionConfig,
    stoch: int,
    action: int,
    quantum: QuantumConfig | None = None,
) -> SequenceModel:
    """Return the sequence model called `config.name`; arguments as of `SequenceModel.make`."""
    return SEQUENCE_MODELS[config.name].part.make(config, attention, stoch, action, quantum)


def leaves(state: State) -> list[Tensor]:
    """Return the tensors of a state, in order, to be stored."""
    if isinstance(state, Tensor):
        return [state]
    return [leaf for part in state for leaf in leaves(part)]


def rebuild(like: State, tensors: Iterator[Tensor]) -> State:
    """Invert `leaves`; `like` is a state of the same form."""
    if isinstance(like, Tensor):
        return next(tensors)
    parts = [rebuild(part, tensors) for part in like]
    return type(like)(*parts) if hasattr(like, "_fields") else type(like)(parts)
