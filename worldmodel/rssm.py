"""The latent dynamics: posteriors over time, priors for imagination.

The recurrent state-space model (PlaNet, Hafner et al. 2019; DreamerV3, eq. 1), with the sequence model as a
part that can be exchanged. Two subclasses differ in what the posterior of z_t sees beside the observation:

* `coupled`, q(z_t | h_t, o_t), is DreamerV3's: it needs h_t, so it runs inside the time loop;
* `decoupled`, q(z_t | o_t), sees the observation alone, so that all times run in parallel: the form
  that a transformer needs, and the fair control for it on the GRU.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from qdreamer import native
from qdreamer.worldmodel.config import WorldModelConfig
from qdreamer.worldmodel.networks.categorical import sample_straight_through, unimix_probs
from qdreamer.worldmodel.networks.layers import MLP, Linear, MLPHead, NormSiLU, init_weight
from qdreamer.worldmodel.sequence_models.interface import Posterior, SequenceModel, State
from qdreamer.worldmodel.sequence_models.layer_view import LayerView


class Carry(NamedTuple):
    """What goes from one step to the next: the sequence model's state, the last latent, the memory."""

    state: State
    stoch: Tensor  # (B, S·K)
    memory: Any = ()  # the state of the sequence model's memory


class Trajectory(NamedTuple):
    """What `observe` returns for B sequences of T steps."""

    features: Tensor  # (B, T, F): h, what memory gives after the observation, and z
    posterior: Tensor  # (B, T, S, K), probabilities
    prior: Tensor  # (B, T, S, K), probabilities
    states: State  # the sequence model's states at every step
    memories: Any  # likewise, its memory's

    def stoch(self) -> Tensor:
        """Return z, (B, T, S·K), as stored in the features."""
        return self.features[..., -self.posterior.shape[-1] * self.posterior.shape[-2] :]


class RSSM(nn.Module):
    """Base of both kinds, for embeddings of `embed` numbers; `noise` arguments are U[0, 1) variables, see
    `sample_straight_through`."""

    draw: Callable[[Tensor, Tensor], Tensor]  # probabilities, noise → z; exported policies have another

    def __init__(self, config: WorldModelConfig, sequence: SequenceModel, embed: int) -> None:
        super().__init__()
        self.sequence, self.draw = sequence, sample_straight_through
        self.stoch, self.classes, self.unimix = config.stoch, config.classes, config.unimix
        self.latents = config.stoch * config.classes  # S·K
        width = sequence.deter + sequence.memory.width  # W
        self.features = width + self.latents  # F
        self.prior = MLPHead(width, config.units, config.prior_layers, self.latents)

    def initial(self, batch: int) -> Carry:
        stoch = next(self.parameters()).new_zeros(batch, self.latents)
        return Carry(self.sequence.initial(batch), stoch, self.sequence.memory.initial(batch))

    def noise(self, *shape: int, generator: torch.Generator | None = None) -> Tensor:
        """Return U[0, 1) variables (*shape, S) for drawing latents."""
        return self.prior.out.weight.new_empty(*shape, self.stoch).uniform_(generator=generator)

    def observe(
        self, embed: Tensor, action: Tensor, is_first: Tensor, carry: Carry, noise: Tensor
    ) -> Trajectory:
        """Filter B sequences.

        Args:
            embed: (B, T, E). action: (B, T, A), a_{t-1}, what led to step t. is_first: (B, T).
            carry: state and latent before the first step. noise: (B, T, S); or (B, T, S, K), draws held
                as they are (`categorical.frozen_sample`).
        """
        h, states, stoch, posterior = self._filter(embed, action, is_first, carry, noise)
        before, after, memories = self.sequence.memory.observe(
            h, stoch, carry.stoch, action, is_first, carry.memory
        )
        prior = self._probs(self.prior(before))
        return Trajectory(torch.cat([after, stoch], -1), posterior, prior, states, memories)

    @torch.no_grad()
    def filter(
        self, embed: Tensor, action: Tensor, is_first: Tensor, carry: Carry, noise: Tensor
    ) -> tuple[Tensor, Carry]:
        """Take one step, for acting: `observe` of (B, ·) each, without a prior → features (B, F), carry."""

        def modules() -> tuple[Tensor, Carry]:
            a, first = action.unsqueeze(1), is_first.unsqueeze(1)
            h, states, stoch, _ = self._filter(embed.unsqueeze(1), a, first, carry, noise.unsqueeze(1))
            _, after, memories = memory.observe(h, stoch, carry.stoch, a, first, carry.memory)
            state = self.sequence.last(states)
            features = torch.cat([after, stoch], -1)[:, 0]
            return features, Carry(state, stoch[:, 0], memory.last(memories))

        def keep(made: native.Filtered) -> Carry:
            return Carry(made.state, made.stoch, memory.filtered(made.kept, carry.memory))

        memory = self.sequence.memory
        given = native.FilterInputs(embed, action, is_first, noise, carry.state, carry.stoch)
        return native.filter_step(modules, keep, self.native_filter(carry), given)

    def native_filter(self, carry: Carry) -> native.FilterWeights | None:
        """Return what C needs to take one step from a carry, or None."""
        return None

    def _filter(
        self, embed: Tensor, action: Tensor, is_first: Tensor, carry: Carry, noise: Tensor
    ) -> tuple[Tensor, State, Tensor, Tensor]:
        """Return h (B, T, D), states, z (B, T, S·K) and its probabilities (B, T, S, K); see `observe`."""
        raise NotImplementedError

    def last(self, trajectory: Trajectory) -> Carry:
        """Return what goes on to the step after a trajectory's last."""
        memory = self.sequence.memory.last(trajectory.memories)
        return Carry(self.sequence.last(trajectory.states), trajectory.stoch()[:, -1], memory)

    def imagine(
        self, action: Tensor, carry: Carry, noise: Tensor, out: Tensor | None = None
    ) -> tuple[Tensor, Carry]:
        """Take one step of the prior: action (B, A), noise (B, S) → features (B, F), carry.

        Without gradients, which alone a memory is made for, the features may be written to `out`.
        """
        sequence, memory = self.sequence, self.sequence.memory
        embedding = sequence.action_embedding(action, None)
        h, state = sequence.step(carry.stoch, embedding, None, carry.state)
        before, asked = memory.ask(h, carry.stoch, action, carry.memory)  # (B, W)
        stoch = self.draw(self._probs(self.prior(before)), noise).flatten(-2)  # (B, S·K)
        after, memories = memory.append(stoch, asked)
        return torch.cat([after, stoch], -1, out=out), Carry(state, stoch, memories)

    def start(self, trajectory: Trajectory, t: Tensor, b: Tensor | None = None) -> tuple[Tensor, Carry]:
        """Return features (N, F) and carries to imagine from.

        After steps t (B, S) of every sequence, N = B·S, or after steps t (N,) of sequences b (N,).
        """
        state = self.sequence.select(trajectory.states, b, t)
        memory = self.sequence.memory.select(trajectory.memories, b, t)
        if b is None:
            b, t = torch.arange(len(t), device=t.device).repeat_interleave(t.shape[1]), t.flatten()
        return trajectory.features[b, t], Carry(state, trajectory.stoch()[b, t], memory)

    @torch.no_grad()
    def inspect(self, trajectory: Trajectory, action: Tensor, is_first: Tensor) -> list[LayerView]:
        """Return what each layer of attention did in episodes that were observed from the beginning."""
        h = trajectory.features[..., : self.sequence.deter]
        return self.sequence.inspect(h, trajectory.stoch(), action, is_first)

    @torch.no_grad()
    def pack(self, carry: Carry) -> tuple[Tensor, Tensor]:
        """Return a carry as replay stores it: state (…, ·) in half precision, classes (…, S) as bytes."""
        stoch = carry.stoch.unflatten(-1, (self.stoch, self.classes)).argmax(-1)
        return self.sequence.pack(carry.state).to(torch.float16), stoch.to(torch.uint8)

    def unpack(self, state: Tensor, stoch: Tensor, action: Tensor, segments: Tensor) -> Carry:
        """Invert `pack`, up to half precision: c steps, (B, c, ·) each → the carry of B that they leave.

        Further arguments as of `Memory.stored`.
        """
        dtype = next(self.parameters()).dtype
        one_hot = functional.one_hot(stoch[:, -1].long(), self.classes).to(dtype).flatten(-2)
        memory = self.sequence.memory.stored(state, stoch, action, segments)
        return Carry(self.sequence.unpack(state[:, -1].to(dtype)), one_hot, memory)

    def _probs(self, logits: Tensor) -> Tensor:
        return unimix_probs(logits.unflatten(-1, (self.stoch, self.classes)), self.unimix)


class CoupledPosterior(nn.Module):
    """Logits of q(z | h, o), h (B, D); `from_embed` does the embedding's half for all times at once."""

    def __init__(self, deter: int, latents: int, embed: int, config: WorldModelConfig) -> None:
        super().__init__()
        units = config.units
        self.from_embed = Linear(embed, units)
        self.from_deter = nn.Linear(deter, units, bias=False)
        # One layer on [h, embed]: both halves share its fan-in.
        init_weight(self.from_embed.weight, deter + embed)
        init_weight(self.from_deter.weight, deter + embed)
        self.norm = NormSiLU(units)
        self.hidden = MLP(units, units, config.posterior_layers - 1)
        self.out = Linear(units, latents)

    def forward(self, h: Tensor, prepared: Tensor) -> Tensor:
        return self.out(self.hidden(self.norm(torch.addmm(prepared, h, self.from_deter.weight.t()))))

    def native_weights(self) -> native.PosteriorWeights | None:
        """Return what the kernel of the scan needs; it knows no hidden layers behind the first."""
        if len(self.hidden):
            return None
        out = self.out
        return native.PosteriorWeights(self.from_deter.weight, self.norm.scale, out.weight, out.bias)


class CoupledRSSM(RSSM):
    """q(z_t | h_t, o_t): a scan of sequence step and posterior (the DreamerV3 baseline)."""

    def __init__(self, config: WorldModelConfig, sequence: SequenceModel, embed: int) -> None:
        super().__init__(config, sequence, embed)
        self.posterior = CoupledPosterior(sequence.deter, self.latents, embed, config)

    def _filter(
        self, embed: Tensor, action: Tensor, is_first: Tensor, carry: Carry, noise: Tensor
    ) -> tuple[Tensor, State, Tensor, Tensor]:
        weights = native.ScanWeights(
            self.sequence.native_weights(), self.posterior.native_weights(), self.unimix
        )
        prepared, actions = self.posterior.from_embed(embed), self.sequence.action_embedding(action, is_first)
        inputs = native.ScanInputs(prepared, actions, is_first, noise)
        h, stoch, posterior = native.scan(self._step, weights, inputs, carry.state, carry.stoch)
        return h, h, stoch, posterior

    def native_filter(self, carry: Carry) -> native.FilterWeights | None:
        recurrence, posterior = self.sequence.native_filter(carry.memory), self.posterior.native_weights()
        if recurrence is None or posterior is None or self.draw is not sample_straight_through:
            return None
        if (recurrence.reading is None) != (self.sequence.memory.width == 0):
            return None  # a memory that C does not know
        embed = self.posterior.from_embed
        return native.FilterWeights(recurrence, (embed.weight, embed.bias), posterior, self.unimix)

    def _step(
        self, state: State, stoch: Tensor, now: native.ScanInputs
    ) -> tuple[State, Tensor, Tensor, Tensor]:
        """Return state, h (B, D), z (B, S·K) and its probabilities (B, S, K) after one step."""
        h, state = self.sequence.step(stoch, now.action_embedding, now.is_first, state)
        probs = self._probs(self.posterior(h, now.prepared))
        return state, h, self.draw(probs, now.noise).flatten(-2), probs


class DecoupledRSSM(RSSM):
    """q(z_t | o_t): all posteriors at once, then one pass of the sequence model."""

    def __init__(self, config: WorldModelConfig, sequence: SequenceModel, embed: int) -> None:
        super().__init__(config, sequence, embed)
        self.posterior = MLPHead(embed, config.units, config.posterior_layers, self.latents)

    def _filter(
        self, embed: Tensor, action: Tensor, is_first: Tensor, carry: Carry, noise: Tensor
    ) -> tuple[Tensor, State, Tensor, Tensor]:
        posterior = self._probs(self.posterior(embed))  # (B, T, S, K)
        stoch = self.draw(posterior, noise).flatten(-2)  # (B, T, S·K)
        previous = torch.cat([carry.stoch.unsqueeze(1), stoch[:, :-1]], 1)
        h, states = self.sequence.observe(previous, action, is_first, carry.state)
        return h, states, stoch, posterior


RSSMS: dict[Posterior, type[RSSM]] = {"coupled": CoupledRSSM, "decoupled": DecoupledRSSM}
