"""Time and peak memory of the attentions: python -m benchmarks.attention [--lengths 64 512 2048 8192].

Every cell of the table treats 8,192 steps of float32: 8,192/N rows of N steps with d features per head,
causal but for Linformer. Milliseconds are medians of rounds in which the candidates take turns: forward
without gradients, and forward + backward to q, k, v. On one thread they are its CPU time, which other
programs on the machine disturb less. Freed memory is kept, as in training, and denormal numbers count
as zero: sharp weights fall below 1e-38, and a CPU is slow with those (`--denormals` keeps them). MiB are
the most that tensors made by forward + backward held at once (torch's profiler; inputs not counted).
`naive` computes all weights as a tensor. Rotary phases are included where the name says so.
"""

import argparse
from collections.abc import Callable
from statistics import median
from time import perf_counter, thread_time
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.allocations import peak_bytes
from benchmarks.attention_references import EluLinear, Linformer, Performer, Window
from qdreamer.agents.training.memory import keep_freed_memory
from qdreamer.worldmodel.attention.config import make_kind
from qdreamer.worldmodel.attention.kernel import AttentionKernel, causal
from qdreamer.worldmodel.attention.rotary import phases, rotate_by

STEPS = 8192
MOST = 2.0  # seconds: what takes longer is run once (beside the warm-up)
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


class Cost(NamedTuple):
    forward: float  # ms
    both: float  # ms, forward + backward
    mib: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 512, 2048, 8192], help="N")
    parser.add_argument("--widths", type=int, nargs="+", default=[8, 16, 64], help="d")
    parser.add_argument("--only", nargs="+", help="candidates")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each N and d, about")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--denormals", action="store_true", help="compute with them instead of zeros")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    keep_freed_memory()
    torch.set_flush_denormal(not a.denormals)
    print(f"threads={a.threads} torch={torch.__version__} float32; ms, MiB; {STEPS} steps in each cell")
    table: dict[tuple[int, int], dict[str, Cost]] = {}
    for length in a.lengths:
        for width in a.widths:
            table[length, width] = measure(length, width, a.only, a.seconds)
            print_cell(length, width, table[length, width])
    print_targets(table)


def candidates(rows: int, length: int, width: int) -> dict[str, Attention]:
    """Heads are the rows: each takes (1, rows, N, d)."""
    turn = phases(torch.arange(length), width, torch.float32)
    mask = causal(length)
    log_decay = F.logsigmoid(torch.randn(1, rows, length) + 3.0)
    segments = (torch.rand(1, length) < 0.01).cumsum(-1)
    coherent, born = make_kind("coherent", rows, width), make_kind("born", rows, width)
    complex_born = make_kind("born", rows, width, complex=True)
    sampled = {name: make_kind("sampled", rows, width, strategy=name) for name in ("topk_rest", "control")}
    references: dict[str, AttentionKernel] = {
        "window 64": Window(rows, width),
        "performer 64": Performer(rows, width),
        "elu-linear": EluLinear(rows, width),
    }
    linformer = Linformer(rows, width, length)

    def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    def naive(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = (q @ k.mT * width**-0.5).masked_fill(~mask, -torch.inf)
        return torch.softmax(scores, -1) @ v

    def rotary(attention: Attention) -> Attention:
        return lambda q, k, v: attention(rotate_by(q, turn), rotate_by(k, turn), v)

    found: dict[str, Attention] = {
        "sdpa": sdpa,
        "sdpa rotary": rotary(sdpa),
        "naive": naive,
        "coherent rotary": rotary(coherent.attend_causal),
        "born": born.attend_causal,
        "born rotary decay resets": rotary(
            lambda q, k, v: born.attend_causal(q, k, v, segments, None, log_decay)
        ),
        "born complex": complex_born.attend_causal,
        **{name: kind.attend_causal for name, kind in references.items()},
        "linformer 64 (not causal)": linformer.attend,
    }
    if length == 512:
        found["naive coherent rotary"] = rotary(lambda q, k, v: coherent.weights(q, k, mask) @ v)
    if length <= 2048:  # they hold several tensors of all pairs
        found |= {f"sampled {name}": kind.attend_causal for name, kind in sampled.items()}
    return found


def measure(length: int, width: int, only: list[str] | None, seconds: float) -> dict[str, Cost]:
    """The cost of every candidate; they take turns, so that a slow spell meets all of them."""
    rows = STEPS // length
    q, k, v, upstream = (torch.randn(1, rows, length, width) for _ in range(4))
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    attentions = candidates(rows, length, width)
    if only:
        attentions = {name: attentions[name] for name in only if name in attentions}

    def both(attention: Attention) -> object:
        return torch.autograd.grad(attention(*leaves), leaves, upstream)

    def forward(attention: Attention) -> object:
        with torch.no_grad():
            return attention(q, k, v)

    clock = thread_time if torch.get_num_threads() == 1 else perf_counter
    mib = {name: peak_bytes(lambda f=f: both(f)) / 2**20 for name, f in attentions.items()}  # type: ignore[misc]
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in attentions}
    share = seconds / len(attentions)
    waiting = dict(attentions)
    while waiting:
        for name, attention in list(waiting.items()):
            begin = clock()
            forward(attention)
            middle = clock()
            both(attention)
            end = clock()
            times[name][0].append(1e3 * (middle - begin))
            times[name][1].append(1e3 * (end - middle))
            spent = sum(map(sum, times[name])) / 1e3
            if spent > share and (len(times[name][0]) >= 5 or spent > MOST):
                del waiting[name]
    return {name: Cost(median(a), median(b), mib[name]) for name, (a, b) in times.items()}


def print_cell(length: int, width: int, costs: dict[str, Cost]) -> None:
    print(f"\nN={length} d={width}, {STEPS // length} rows; × is the speed relative to SDPA")
    base = costs.get("sdpa")
    for name, cost in costs.items():
        times = f"{base.forward / cost.forward:6.2f}× {base.both / cost.both:6.2f}×" if base else ""
        print(
            f"  {name:<26} {cost.forward:9.2f} ms {cost.both:9.2f} ms {cost.mib:9.1f} MiB  {times}",
            flush=True,
        )


def print_targets(table: dict[tuple[int, int], dict[str, Cost]]) -> None:
    """The aims of this package beside what was measured."""
    print("\nAims")
    for (length, width), costs in table.items():
        if length >= 512 and {"coherent rotary", "sdpa rotary"} <= set(costs):
            ours, base = costs["coherent rotary"], costs["sdpa rotary"]
            check(
                f"coherent / sdpa rotary, time, N={length} d={width}",
                [ours.forward / base.forward, ours.both / base.both], 1.25,
            )  # fmt: skip
        if (length, width) == (512, 16):
            for name in ("naive", "naive coherent rotary"):
                ours, base = costs["coherent rotary"], costs[name]
                check(f"coherent / {name}, time forward + backward, at 512", [ours.both / base.both], 1 / 1.7)
                check(f"coherent / {name}, memory, at 512", [ours.mib / base.mib], 0.5)
            check("coherent, largest error against its naive form", [coherent_error(length, width)], 1e-5)
        if width == 8 and length >= 2048:
            ours, base = costs["born"], costs["sdpa"]
            aim = 0.25 if length >= 8192 else 1.0
            check(
                f"born / sdpa, time, N={length} d=8",
                [ours.forward / base.forward, ours.both / base.both],
                aim,
            )


def check(what: str, values: list[float], most: float) -> None:
    figures = ", ".join(f"{x:.3g}" for x in values)
    print(f"  {'met' if max(values) <= most else 'MISSED':<7} {what}: {figures} (at most {most:.3g})")


@torch.no_grad()
def coherent_error(length: int, width: int) -> float:
    """Largest difference between the SDPA form and explicit weights, for values of order one."""
    q, k, v = (torch.randn(1, 4, length, width) for _ in range(3))
    kind = make_kind("coherent", 4, width)
    return (kind.attend_causal(q, k, v) - kind.weights(q, k, causal(length)) @ v).abs().max().item()


if __name__ == "__main__":
    main()
