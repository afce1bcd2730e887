"""Errors of attention from few keys: python -m benchmarks.head_errors [--updates 300].

What `sampled` and `window` lose on the heads of a world model with softmax attention, trained at T = 512 on
CartPole and Pendulum with hidden velocities, and on Gaussian data with a stated logit scale.
The queries are the last ones of held-out sequences of 512 steps, so that each sees nearly all 512 keys. The
error of a head is the mean over its queries of |ô − o|/|o|, as runs log it. "mean of all" attends to
nothing: what an estimate has to beat. Estimates see weights and values; the exact output is used to judge.
"""

import argparse
from dataclasses import replace
from statistics import mean
from time import process_time
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from benchmarks.attention_references import Window
from benchmarks.quality import train
from benchmarks.quality_data import CARTPOLE, PENDULUM, Data, Stream
from benchmarks.quality_models import build
from qdreamer.agents.dreamer import Dreamer
from qdreamer.envs.entries import ENTRY
from qdreamer.worldmodel.attention.draws import (
    STRATEGIES,
    Budget,
    effective_keys,
    relative_error,
)
from qdreamer.worldmodel.attention.kernel import causal
from qdreamer.worldmodel.attention.rotary import phases
from qdreamer.worldmodel.attention.softmax import Softmax
from qdreamer.worldmodel.sequence_models.transformer import Transformer

KEYS, QUERIES = 512, 32
BUDGETS = (32, 64, 128)
BLOCKS = (16, 32, 64)
REPEATS = 16
"""Draws of every estimate, to measure its error."""
TRAINED = {
    "CartPole": replace(CARTPOLE, longest=KEYS + 88, wild=0.5),
    "Pendulum": replace(PENDULUM, longest=KEYS + 88),
}


class Head(NamedTuple):
    """B sequences of one head. The weights are those of the last QUERIES rows."""

    q: Tensor  # (B, 1, N, d)
    k: Tensor  # (B, 1, N, d)
    v: Tensor  # (B, 1, N, d)
    p: Tensor  # (B, 1, QUERIES, N)

    def of_queries(self, out: Tensor) -> Tensor:
        return out[..., -QUERIES:, :]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="*", default=list(TRAINED), choices=list(TRAINED))
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument(
        "--scales", type=float, nargs="+", default=[1.0, 2.0, 3.0], help="std of Gaussian logits"
    )
    a = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    for name in a.tasks:
        begin = process_time()
        data = TRAINED[name].data(0, 60_000, 60)
        agent = build("softmax", data.observation, data.action, KEYS, 0)
        train(agent, Stream(data, KEYS, 0, whole=False), a.updates, a.batch, a.lr, 0)
        print(
            f"\n{name}: {a.updates} updates of {a.batch}×{KEYS}, {process_time() - begin:.0f} s", flush=True
        )
        report(name, trained_heads(agent, data))
    for scale in a.scales:
        report(f"Gaussian, logits of std {scale:g}", gaussian_heads(scale))


@torch.no_grad()
def trained_heads(agent: Dreamer, data: Data, sequences: int = 8) -> dict[str, Head]:
    """Heads on held-out sequences that last for KEYS rows, in the causal order in which the model attends."""
    episodes = [e for e in data.test if len(e.observations) >= KEYS][:sequences]
    if not episodes:
        raise SystemExit(f"no held-out episode has {KEYS} rows")
    observation = torch.from_numpy(np.stack([e.observations[:KEYS] for e in episodes]))
    previous = torch.from_numpy(
        np.stack([np.vstack([0 * e.actions[:1], e.actions])[:KEYS] for e in episodes])
    )
    is_first = torch.zeros(observation.shape[:2])
    is_first[:, 0] = 1.0
    model, count = agent.world_model, len(episodes)
    carry = model.rssm.initial(count)
    generator = torch.Generator().manual_seed(0)
    trajectory = model.observe({ENTRY: observation}, previous, is_first, carry, generator=generator)
    stoch = torch.cat([carry.stoch.unsqueeze(1), trajectory.stoch()[:, :-1]], 1)
    sequence = model.rssm.sequence
    assert isinstance(sequence, Transformer)
    x = sequence.stoch_in(stoch * (1.0 - is_first).unsqueeze(-1)) + sequence.action_embedding(
        previous, is_first
    )
    visibility = carry.state.followed_by(is_first, sequence.window)
    turn = phases(torch.arange(KEYS), sequence.head, x.dtype)
    heads = {}
    for layer, block in enumerate(sequence.layers()):
        asked = block.project(x, turn)
        for i in range(block.heads):
            heads[f"{layer + 1}.{i + 1}"] = make_head(*(y[:, i : i + 1] for y in (asked.q, asked.k, asked.v)))
        x = block.residual(
            x,
            block.attention.attend(
                asked, block.attention.append(asked, carry.state.layers[layer]), visibility
            ),
        )
    return heads


def gaussian_heads(scale: float, width: int = 16) -> dict[str, Head]:
    """One head of independent normal queries, keys and values; logits q·k/√d have the deviation `scale`."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(8, 1, KEYS, width, generator=generator) for _ in range(3))
    return {"-": make_head(scale * q, k, v)}


def make_head(q: Tensor, k: Tensor, v: Tensor) -> Head:
    mask = causal(KEYS)[-QUERIES:]
    return Head(q, k, v, Softmax(1, q.shape[-1]).weights(q[..., -QUERIES:, :], k, mask))


def report(title: str, heads: dict[str, Head]) -> None:
    """All tables of one source of heads."""
    print(f"\n{title}: error in %, by keys looked at; mean over heads (largest)")
    print("| estimate | " + " | ".join(map(str, BUDGETS)) + " |")
    print("|---" * (1 + len(BUDGETS)) + "|")
    single = {name: {s: [error(h, name, s) for h in heads.values()] for s in BUDGETS} for name in STRATEGIES}
    for name, errors in single.items():
        print(f"| {name} | " + " | ".join(spread(errors[s]) for s in BUDGETS) + " |")
    print(f"| mean of all | {spread([nothing(h) for h in heads.values()])} | | |")
    print("\n| window, block | keys looked at | error |\n|---|---|---|")
    for block in BLOCKS:
        looked = f"{2 * block} near at most, {KEYS // block - 2} means"
        print(f"| {block} | {looked} | {spread([window_error(h, block) for h in heads.values()])} |")
    print(
        "\n| head | N_eff | "
        + " | ".join(f"{name}, {BUDGETS[0]}" for name in STRATEGIES)
        + " | mean of all | measured / expected |"
    )
    print("|---" * (4 + len(STRATEGIES)) + "|")
    for i, (name, head) in enumerate(heads.items()):
        cells = [f"{effective_keys(head.p).mean():.1f}"]
        cells += [f"{100 * single[strategy][BUDGETS[0]][i]:.1f}" for strategy in STRATEGIES]
        cells += [f"{100 * nothing(head):.1f}", " ".join(f"{independent(head, s):.3f}" for s in BUDGETS)]
        print(f"| {name} | " + " | ".join(cells) + " |")
    print(f"most keys looked at with S = {BUDGETS[0]}: {most_keys(heads, BUDGETS[0])}", flush=True)


def spread(errors: list[float]) -> str:
    return f"{100 * mean(errors):.1f} ({100 * max(errors):.1f})"


def estimate(p: Tensor, strategy: str, draws: int) -> Tensor:
    """REPEATS estimates of the weights, (REPEATS, …)."""
    generator = torch.Generator().manual_seed(draws)
    many = p.expand(REPEATS, *p.shape).contiguous()
    return STRATEGIES[strategy](many, Budget(draws, draws // 2), generator).weights


def error(head: Head, strategy: str, draws: int) -> float:
    """Mean over queries and repetitions of |ô − o|/|o|."""
    return float(relative_error(estimate(head.p, strategy, draws) @ head.v, head.p @ head.v).mean())


def nothing(head: Head) -> float:
    """The error of weighting all visible keys alike."""
    seen = causal(KEYS)[-QUERIES:].to(head.p.dtype)
    alike = seen / seen.sum(-1, keepdim=True)
    return float(relative_error(alike @ head.v, head.p @ head.v).mean())


def window_error(head: Head, block: int) -> float:
    out = Window(1, head.q.shape[-1], block).attend_causal(head.q, head.k, head.v)
    return float(relative_error(head.of_queries(out), head.p @ head.v).mean())


def independent(head: Head, draws: int) -> float:
    """Measured over expected error of independent draws, both as root mean squares over queries."""
    exact = head.p @ head.v
    measured = (estimate(head.p, "importance", draws) @ head.v - exact).square().sum(-1).mean()
    count = torch.full(head.p.shape[:-1], float(draws))
    expected = (expected_error(head.p, head.v, count).square() * exact.square().sum(-1)).mean()
    return float((measured / expected).sqrt())


def expected_error(p: Tensor, v: Tensor, draws: Tensor) -> Tensor:
    """√((Σ_m p_m|v_m|² − |o|²)/(S|o|²)), (…, N): of S independent draws, given the values (…, M, dv).

    Needs the exact output o: for comparisons, not for estimates.
    """
    exact = (p @ v).square().sum(-1)
    second = (p @ v.square().sum(-1, keepdim=True)).squeeze(-1)
    return ((second - exact).clamp(min=0.0) / (draws * exact)).sqrt()


def most_keys(heads: dict[str, Head], draws: int) -> str:
    """The largest number of keys with a weight of their own; under `control` the others share one."""
    found = {}
    for name in STRATEGIES:
        counts = []
        for head in heads.values():
            w = estimate(head.p, name, draws)
            if name == "control":
                counts.append(
                    (w > w.where(head.p > 0, torch.inf).amin(-1, keepdim=True) * 1.000001).sum(-1).max()
                )
            else:
                counts.append((w > 0).sum(-1).max())
        found[name] = int(max(counts))
    return ", ".join(f"{name} {count}" for name, count in found.items())


if __name__ == "__main__":
    main()
