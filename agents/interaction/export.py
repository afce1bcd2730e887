"""A trained policy as one file, `.onnx` or `.pt2`, for programs that have no QDreamer, and need no torch.

    observation entries, state (B, N), is_first (B,), uniforms (B, S)  →  action (B, A), state (B, N)

The state is all that the agent carries from step to step, side by side: h, z, its memory's keys and values
(or its recurrent state) and the last action. It begins as zeros, and nothing of it counts in rows where
is_first is 1, as it must be in the first call. Latents are drawn by the uniforms, U[0, 1) numbers of the
caller; or, in the likeliest form, not drawn at all, which is another policy with a return of its own.
"""

import copy
import json
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from qdreamer import native
from qdreamer.agents.dreamer import Dreamer
from qdreamer.envs.entries import ACTION_MASK
from qdreamer.native import products
from qdreamer.worldmodel.networks.categorical import sample_index
from qdreamer.worldmodel.rssm import Carry
from qdreamer.worldmodel.sequence_models.interface import leaves, rebuild

Latents = Literal["drawn", "likeliest"]
Score = Callable[[Dreamer, int], float]
"""The mean return of an agent over so many evaluation episodes."""


class Exported(NamedTuple):
    """A file, and what its policy is worth."""

    path: Path
    inputs: dict[str, tuple[int, ...]]  # name → shape of one row
    actions: str  # what the numbers of an action mean
    mean_return: float | None  # of the exported policy's evaluation episodes, if they were asked for
    agent_return: float | None  # the agent's in the same episodes, with drawn latents


def drawn(probs: Tensor, uniform: Tensor) -> Tensor:
    """Return the draw that the agent would make, one-hot, by operations that every format knows."""
    return _hot(sample_index(probs, uniform), probs)


def likeliest(probs: Tensor, uniform: Tensor) -> Tensor:
    """Return the likeliest classes (…, K), one-hot, whatever the uniforms are."""
    return _hot(probs.argmax(-1), probs)


def _hot(index: Tensor, like: Tensor) -> Tensor:
    return (index.unsqueeze(-1) == torch.arange(like.shape[-1])).to(like.dtype)


DRAWS: dict[Latents, Callable[[Tensor, Tensor], Tensor]] = {"drawn": drawn, "likeliest": likeliest}


class Policy(nn.Module):
    """One step of an agent as a function of tensors; see the module's docstring.

    `size` is N. Leaves of a carry without rows count its steps: here each row counts its own, from is_first.
    """

    def __init__(self, dreamer: Dreamer, latents: Latents) -> None:
        super().__init__()
        self.model, self.actor, self.latents = dreamer.world_model, dreamer.average_actor, latents
        self.model.rssm.draw = DRAWS[latents]
        self.actions, self.variables = dreamer.action.size, self.model.rssm.stoch
        self.like = self._full()
        self.shapes = [leaf.shape[1:] if leaf.dim() else torch.Size([1]) for leaf in leaves(self.like)]
        self.sizes = [*(shape.numel() for shape in self.shapes), self.actions]
        self.size = sum(self.sizes)

    def forward(
        self, observation: dict[str, Tensor], state: Tensor, is_first: Tensor, uniforms: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        *columns, last = state.split(self.sizes, -1)
        first, carry = is_first.unsqueeze(1), self._carry(columns, is_first)
        if uniforms is None:  # without effect
            uniforms = state.new_zeros(state.shape[0], self.variables)
        seen = {name: values.unsqueeze(1) for name, values in observation.items()}
        trajectory = self.model.observe(seen, last.unsqueeze(1), first, carry, uniforms.unsqueeze(1))
        action = self.actor(trajectory.features[:, 0], observation.get(ACTION_MASK)).mode()
        kept = leaves(self.model.rssm.last(trajectory))
        return action, torch.cat([*(leaf.flatten(1).to(state.dtype) for leaf in kept), action], -1)

    def _carry(self, columns: tuple[Tensor, ...] | list[Tensor], is_first: Tensor) -> Carry:
        parts = []
        for column, shape, leaf in zip(columns, self.shapes, leaves(self.like), strict=True):
            kept = (column.unflatten(-1, shape) if len(shape) > 1 else column).contiguous()
            parts.append((kept if leaf.dim() else kept * (1.0 - is_first.unsqueeze(1))).to(leaf.dtype))
        found: Carry = rebuild(self.like, iter(parts))
        return found

    def _full(self) -> Carry:
        """Return a carry whose past is as long as it can become."""
        rssm, steps, known = self.model.rssm, 1, None
        while True:
            embed, action = (
                torch.zeros(1, steps, self.model.encoder.width),
                torch.zeros(1, steps, self.actions),
            )
            noise, first = rssm.noise(1, steps), torch.ones(1, steps)
            carry = rssm.last(rssm.observe(embed, action, first, rssm.initial(1), noise))
            if (shapes := [leaf.shape for leaf in leaves(carry)]) == known:
                return carry
            steps, known = 2 * steps, shapes


@torch.no_grad()
def export(
    dreamer: Dreamer,
    path: str | Path,
    latents: Latents = "drawn",
    actions: str = "",
    score: Score | None = None,
    episodes: int = 0,
) -> Exported:
    """Write the policy that evaluations play, with the likeliest actions, to a file; for any B rows.

    Args:
        path: its suffix, .onnx or .pt2, is the format. The file also holds, as "qdreamer", a JSON text of
            what goes in and out.
        latents: drawn by uniforms, which are then an input; or the likeliest classes of each posterior.
        actions: what the numbers of an action mean. score, episodes: to judge both policies with.

    Raises ValueError for another suffix, a folder that is not there or cannot be written to, episodes that
    are no number or cannot be played, .onnx without the packages that write it, and for agents whose
    attention runs circuits or draws.
    """
    path = Path(path)
    if path.suffix not in WRITERS or latents not in DRAWS:
        raise ValueError(f"export to .onnx or .pt2, with latents drawn or likeliest, not {path}, {latents}")
    if any(find_spec(module) is None for module in NEEDS.get(path.suffix, ())):
        raise ValueError("to write .onnx: pip install 'qdreamer[onnx]'; .pt2 needs nothing more")
    if not os.access(path.parent, os.W_OK) or path.is_dir():
        raise ValueError(f"{path} cannot be written: its folder must be there and yours to write in")
    if not isinstance(episodes, int) or episodes < 0:
        raise ValueError(f"episodes={episodes} must be a whole number of at least 0")
    if episodes and score is None:
        raise ValueError(
            f"episodes={episodes} cannot be played without a score: load the agent by qdreamer.load"
        )
    agent = copy.deepcopy(dreamer).cpu().eval().requires_grad_(False)
    with native.without(*native.KERNELS), products.portable():
        policy = Policy(agent, latents).eval()
        inputs = _inputs(agent, policy)
        program = _program(policy, inputs)
        returns = (score(agent, episodes), score(dreamer, episodes)) if score and episodes else (None, None)
    flat = {**inputs["observation"], **{k: v for k, v in inputs.items() if k != "observation"}}
    shapes = {name: tuple(tensor.shape[1:]) for name, tensor in flat.items()}
    about = {
        "inputs": {name: [str(tensor.dtype)[6:], *shapes[name]] for name, tensor in flat.items()},
        "outputs": {"action": actions, "new_state": "the state of the next call"},
        "latents": latents, "mean_return": returns[0], "agent_return": returns[1],
    }  # fmt: skip
    WRITERS[path.suffix](program, path, list(flat), json.dumps(about))
    return Exported(path, shapes, actions, *returns)


def _inputs(agent: Dreamer, policy: Policy) -> dict[str, Any]:
    """Return what the policy is traced with, two rows of each input."""
    seen = {
        name: torch.zeros(2, *spec.shape, dtype=getattr(torch, spec.dtype.name))
        for name, spec in agent.observation.items()
    }
    inputs = {"observation": seen, "state": torch.zeros(2, policy.size), "is_first": torch.ones(2)}
    if policy.latents == "drawn":
        inputs["uniforms"] = torch.zeros(2, policy.variables)
    return inputs


def _program(policy: Policy, inputs: dict[str, Any]) -> torch.export.ExportedProgram:
    policy(**inputs)  # what is made once per process must not be made of the tracer's tensors
    rows = torch.export.Dim.DYNAMIC
    shapes = {
        name: {entry: {0: rows} for entry in value} if isinstance(value, dict) else {0: rows}
        for name, value in inputs.items()
    }
    try:
        program = torch.export.export(policy, (), inputs, dynamic_shapes=shapes)
    except Exception as error:  # of many kinds, all of which say that something is no tensor's operation
        raise ValueError(_REFUSAL.format(str(error).strip().splitlines()[0])) from error
    for node in program.graph.nodes:
        draws = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
        attention = torch.ops.aten.scaled_dot_product_attention.default  # its dropout is 0
        if draws and node.target is not attention:
            raise ValueError(_REFUSAL.format(f"it draws by {node.target}"))
    return program


_REFUSAL = (
    "this agent cannot be exported ({}): attention that runs circuits or draws is no graph; attention=born "
    "is the closed form of circuit"
)


def _write_onnx(program: torch.export.ExportedProgram, path: Path, names: list[str], about: str) -> None:
    from onnxscript import optimizer  # lazily: an extra

    # The whole optimizer would take + 1e-12 for + 0, and a key of zeros has no direction then.
    made = torch.onnx.export(
        program, input_names=names, output_names=["action", "new_state"], optimize=False, verbose=False
    )
    assert made is not None
    optimizer.fold_constants(made.model)
    optimizer.remove_unused_nodes(made.model)
    made.model.metadata_props["qdreamer"] = about
    made.save(path)


def _write_pt2(program: torch.export.ExportedProgram, path: Path, names: list[str], about: str) -> None:
    torch.export.save(program, path, extra_files={"qdreamer": about})


WRITERS = {".onnx": _write_onnx, ".pt2": _write_pt2}
NEEDS = {".onnx": ("onnx", "onnxscript")}  # torch's exporter imports them as well
