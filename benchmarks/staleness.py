"""What the age of a filled memory costs: python -m benchmarks.staleness --seeds 1000 [-- env=pairs …].

Replay keeps h and z as they were at a row's last visit, and the memory of a replayed sequence is filled
with them (docs/attention.md). This trains an agent, noting for every row the update that refreshed it last,
and then asks for each loss of the world model on replayed sequences, with the same draws of latents:

* stored: as training begins them, with h and z as they are stored;
* memory anew: the memory from h and z that the present weights give, observing the episode from its start;
* all anew: h and z of the row before the sequence as well;
* empty: nothing in the memory, the measure of what it is worth.

First by the sequences' own ages (mean over the filled rows, in updates) in quarters; then with h and z given
by the weights of earlier moments, `--moments` in environment steps: for all sequences the same age, and
larger ones than this buffer holds. Losses are means over the steps of the episode that the memory belongs to;
sequences that begin an episode are left out. Intervals: percentile bootstrap over sequences, which share
episodes.
"""

import argparse
import copy
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.interaction.evaluation import mean_and_interval
from qdreamer.agents.replay.sampler import Eligible, Sampler, Starts
from qdreamer.agents.replay.storage import Sample
from qdreamer.agents.reporting.progress import Progress
from qdreamer.agents.training.learner import Learner
from qdreamer.agents.training.training import Run
from qdreamer.envs.entries import field
from qdreamer.worldmodel.model import WorldModel
from qdreamer.worldmodel.rssm import Carry

DEFAULTS = ["env=pairs", "agent=hybrid"]
CHUNK = 256  # sequences at once
Scores = dict[str, NDArray[np.float32]]  # loss → (n,), one for each sequence


class RefreshTimes(Sampler):
    """A sampler that notes when the h and z of a row were made: when it was stored, then at every draw."""

    def __init__(self, inner: Sampler, learner: Learner, rings: int, rows: int) -> None:
        self._inner, self._learner = inner, learner
        self.updates = np.zeros((rings, rows), np.int64)

    @classmethod
    def make(cls, config: Any, num_envs: int, length: int, seed: int, circuits: Any) -> Self:
        raise NotImplementedError("it goes around a sampler that was made")

    def added(self, env: NDArray[np.int64], row: NDArray[np.int64]) -> None:
        self.updates[env, row] = self._learner.updates
        self._inner.added(env, row)

    def draw(self, count: int, eligible: Eligible) -> tuple[Starts, NDArray[np.float32]]:
        starts, weights = self._inner.draw(count, eligible)
        rows = starts.row[:, None] + np.arange(self._learner.replay.length)
        self.updates[starts.env[:, None], rows] = self._learner.updates
        return starts, weights

    def update(self, starts: Starts, priorities: NDArray[np.float32]) -> None:
        self._inner.update(starts, priorities)

    def state_dict(self) -> dict[str, Any]:
        return self._inner.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._inner.load_state_dict(state)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1000])
    parser.add_argument("--moments", type=int, nargs="+", default=[10_000, 15_000, 17_500, 19_000, 20_000])
    parser.add_argument("--sequences", type=int, default=2048)
    parser.add_argument("overrides", nargs="*", default=DEFAULTS, help="settings for train.py, after --")
    a = parser.parse_args()
    for seed in a.seeds:
        words = [*(a.overrides or DEFAULTS), f"seed={seed}", "logging.writers=[jsonl]"]
        print(f"\n{' '.join(words)}, after {a.moments[-1]} steps")
        with tempfile.TemporaryDirectory() as directory:
            run, times, earlier = trained(words, sorted(a.moments), Path(directory))
            report(run.learner, times, earlier, a.sequences)


def trained(
    words: list[str], moments: list[int], directory: Path
) -> tuple[Run, RefreshTimes, dict[int, WorldModel]]:
    """A run up to the last moment, when its rows were refreshed, and the world model after some updates."""
    config = load_config([*words, f"steps={moments[-1]}", f"evaluation.every={moments[-1]}"])
    run, models = Run(config, directory), {}
    learner = run.learner
    if learner.agent.world_model.rssm.sequence.memory.context < 2:
        raise SystemExit(
            f"error: sequence={config.sequence.name} fills no memory: use sequence=gru_attention"
        )
    times = RefreshTimes(run.replay.sampler, learner, config.env.num_envs, 2 * moments[-1])
    run.replay.sampler = times
    for moment in moments:
        run.config = replace(config, steps=moment)
        run.train(Progress(moment, run.step, learner.updates))
        models[learner.updates] = copy.deepcopy(learner.agent.world_model)
    run.close()
    assert run.observer is not None
    assert run.observer.last_evaluation is not None
    print(
        f"\n{learner.updates} updates, {run.replay.rows} rows, return {run.observer.last_evaluation[0]:.2f}"
    )
    return run, times, models


def report(learner: Learner, times: RefreshTimes, earlier: dict[int, WorldModel], count: int) -> None:
    """Print both tables."""
    model = learner.agent.world_model
    sample = filled_sequences(learner, count)
    ages = mean_ages(sample, learner.updates - times.updates)
    pasts = {updates: observed_past(learner, old, sample) for updates, old in earlier.items()}
    anew, empty = pasts.pop(learner.updates), {**sample.past, "known": np.zeros_like(sample.past["known"])}
    stored, all_anew = (losses(learner, model, sample, past, past) for past in (sample.past, anew))
    memory_anew, nothing = (losses(learner, model, sample, sample.past, past) for past in (anew, empty))
    print(f"{len(ages)} sequences; filled rows: {sample.past['known'].sum(1).mean():.1f} on average")
    print("| age, updates | loss | stored | stored − memory anew | stored − all anew | empty − memory anew |")
    print("|---|---|---|---|---|---|")
    order = np.argsort(ages, kind="stable")
    for part in (order, *np.array_split(order, 4)):
        span = f"{ages[part].min():.0f}–{ages[part].max():.0f} (mean {ages[part].mean():.0f})"
        for name, mean in stored.items():
            cells = (
                difference(x[name][part], y[name][part])
                for x, y in ((stored, memory_anew), (stored, all_anew), (nothing, memory_anew))
            )
            print(f"| {span} | {name} | {mean[part].mean():.4f} | {' | '.join(cells)} |")
    print("\n| memory by the weights of so many updates ago | loss | minus memory anew |\n|---|---|---|")
    for updates, past in reversed(pasts.items()):
        old = losses(learner, model, sample, sample.past, past)
        for name in old:
            print(f"| {learner.updates - updates} | {name} | {difference(old[name], memory_anew[name])} |")


def difference(x: NDArray[np.float32], y: NDArray[np.float32]) -> str:
    mean, low, high = mean_and_interval((x - y).tolist())
    return f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"


def filled_sequences(learner: Learner, count: int) -> Sample:
    """Replayed sequences that go on with an episode, uniformly drawn."""
    sample = learner.replay.peek(2 * count, np.random.default_rng(0))
    keep = np.flatnonzero(~sample.rows["is_first"][:, 1].astype(np.bool_))[:count]
    rows, past = ({name: x[keep] for name, x in part.items()} for part in (sample.rows, sample.past))
    return Sample(rows, past, Starts(*(x[keep] for x in sample.starts)), sample.weights[keep])


def mean_ages(sample: Sample, ages: NDArray[np.int64]) -> NDArray[np.float64]:
    """Updates since the filled rows of each sequence were refreshed, (n,)."""
    known, starts = sample.past["known"], sample.starts
    rows = starts.row[:, None] + np.arange(-known.shape[1], 0)
    return (ages[starts.env[:, None], rows] * known).sum(1) / known.sum(1)


@torch.no_grad()
def observed_past(learner: Learner, model: WorldModel, sample: Sample) -> dict[str, NDArray[Any]]:
    """The past of the sequences, its h and z those that `model` gives from the episodes' starts on."""
    data, starts = learner.replay.state_dict()["data"], sample.starts
    columns = sample.past["known"].shape[1]
    env = torch.from_numpy(starts.env)[:, None]
    rows = torch.from_numpy(starts.row)[:, None] + torch.arange(-columns - 1, 0)  # one more for its action
    is_first, action = (data[name][env, rows.clamp(min=0)] for name in ("is_first", "action"))
    entries = {name: data[field(name)][env, rows.clamp(min=0)][:, 1:] for name in learner.agent.observation}
    is_first = is_first[:, 1:].float()
    if not (is_first.any(1) | torch.from_numpy(~sample.past["known"][:, 0])).all():
        raise SystemExit("error: episodes are longer than the window: use a larger sequence.window")
    generator = torch.Generator().manual_seed(1)
    trajectory = model.observe(
        entries,
        action[:, :-1].float(),
        is_first,
        model.rssm.initial(len(env)),
        generator=generator,
    )
    state, stoch = model.rssm.pack(Carry(trajectory.states, trajectory.stoch()))
    return {**sample.past, "state": state.numpy(), "stoch": stoch.numpy()}


@torch.no_grad()
def losses(
    learner: Learner, model: WorldModel, sample: Sample, carried: dict[str, Any], filled: dict[str, Any]
) -> Scores:
    """Means over the steps of the past's episode; first h and z, and the memory, come from these pasts."""
    found: dict[str, list[Tensor]] = {}
    generator = torch.Generator().manual_seed(0)
    for start in range(0, len(sample.weights), CHUNK):
        part = slice(start, start + CHUNK)
        rows = {name: x[part] for name, x in sample.rows.items()}
        starts, weights = Starts(*(x[part] for x in sample.starts)), sample.weights[part]
        batch, other = (
            learner.to_batch(Sample(rows, {name: x[part] for name, x in past.items()}, starts, weights))
            for past in (carried, filled)
        )
        batch = replace(batch, carry=batch.carry._replace(memory=other.carry.memory))
        goes_on = (batch.is_first.cumsum(1) == 0).to(batch.reward)  # (n, T)
        noise = model.rssm.noise(*batch.is_first.shape, generator=generator)
        for name, loss in model.loss(batch, noise)[0].items():
            if name == "representation":  # the same number as `dynamics`
                continue
            found.setdefault(name, []).append((loss * goes_on).sum(1) / goes_on.sum(1))
    return {name: torch.cat(parts).numpy() for name, parts in found.items()}


if __name__ == "__main__":
    main()
