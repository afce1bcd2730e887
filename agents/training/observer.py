"""What rank 0 alone does in a run: evaluate, log, and keep account of what it costs."""

import math
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

from torch import Tensor

from qdreamer.agents.interaction.collector import Episode
from qdreamer.agents.interaction.evaluation import (
    EvaluationEpisode,
    Evaluator,
    Lend,
    Stopped,
    mean_and_interval,
)
from qdreamer.agents.reporting.metrics import MetricsLog, RunningMeans
from qdreamer.agents.reporting.overfitting import OverfittingMonitor, held_out_loss, replay_loss
from qdreamer.agents.reporting.progress import Progress
from qdreamer.agents.reporting.reporting import Reporter
from qdreamer.agents.runs import checkpoint
from qdreamer.agents.runs.config import Config
from qdreamer.agents.runs.run_directory import origin
from qdreamer.agents.runs.summary import QUANTUM_PARTS, Summary
from qdreamer.agents.training.imbalance import MOST, WINDOW
from qdreamer.agents.training.interrupt import Interrupt
from qdreamer.agents.training.learner import Learner
from qdreamer.envs.edge.guard import warn
from qdreamer.quantum.jobs.budget import CircuitBudget


class Observer:
    """Log, evaluations and costs of a run.

    Args:
        budget: of the run, which knows what circuits cost.
        stride: environment steps of one iteration of the training loop, on all ranks together.
        lend: lends the training environments, where evaluation cannot have its own.
        step, state: where the run goes on, and `state_dict` of that moment; None at its beginning.
    """

    def __init__(
        self,
        config: Config,
        directory: Path,
        learner: Learner,
        budget: CircuitBudget,
        stride: int,
        step: int,
        state: dict[str, Any] | None,
        lend: Lend,
    ) -> None:
        self.config, self.learner, self.budget, self._stride = config, learner, budget, stride
        self._directory = directory
        evaluation = config.evaluation
        self.evaluator = Evaluator(
            config.env,
            evaluation.episodes,
            evaluation.seed,
            evaluation.deterministic,
            evaluation.max_steps,
            lend,
        )
        self.means = RunningMeans()
        self._seconds = 0.0  # of earlier sessions
        self.solved_at: int | None = None  # first evaluated step whose mean return reached env.solved
        self.last_evaluation: tuple[float, float, float] | None = None  # mean return, its 95 % interval
        self.evaluated_at = 0  # step of that evaluation
        self.evaluation_due = False  # one was interrupted: it comes first next time
        self.best: tuple[int, float] | None = None  # step and mean return of the policy that is kept
        self.overfitting = OverfittingMonitor()
        self.parts: dict[str, float] = {}  # seconds in each part of the loop, up to the last line of the log
        self._begin: float | None = None  # when this session began to train
        if state is not None:
            self._load_state_dict(state)
        self.summary = Summary(directory, step, config.steps)
        resume_at = None if state is None else (state["log_offset"], step)
        self.log = MetricsLog(directory, config.logging.writers, resume_at)
        self.reporter = Reporter(
            config.env,
            evaluation,
            config.logging,
            config.steps,
            config.train.batch_length,
            self.log,
            directory,
        )
        if state is None:
            self.log.begin(asdict(config))

    def begin(self, progress: Progress) -> None:
        """Count the seconds from now on, and show the run's progress."""
        self._begin, self._progress = perf_counter(), progress

    def record(
        self, step: int, episodes: list[Episode], metrics: list[dict[str, Tensor]], interrupt: Interrupt
    ) -> None:
        """Log what an iteration of the training loop brought, and evaluate if that is due."""
        for episode in episodes:
            self.log.scalars(step, {"train/return": episode.score, "train/length": episode.length})
            self._progress.episode(episode.score)
        for scalars in metrics:
            self.means.add(scalars)
        if passed(step, self._stride, self.config.logging.every):
            self._log_means(step)
        due = passed(step, self._stride, self.config.evaluation.every)
        self.evaluation_due = due or step >= self.config.steps
        self.evaluate(step, interrupt)

    def evaluate(self, step: int, interrupt: Interrupt) -> None:
        """Evaluate if it is due; an interrupted evaluation stays due."""
        if not self.evaluation_due:
            return
        agent = self.learner.agent
        try:
            with self.learner.watch("evaluation"):
                episodes = self.evaluator.run(
                    agent, stop=lambda: interrupt.signal is not None, tell=self._evaluating
                )
        except Stopped:
            return
        self.evaluation_due = False
        self.evaluated_at = step
        self.last_evaluation = mean_and_interval([episode.score for episode in episodes])
        mean, solved = self.last_evaluation[0], self.config.env.solved
        if self.solved_at is None and solved is not None and mean >= solved:
            self.solved_at = step
        self._watch_overfitting(step, episodes)
        self.reporter.evaluation(step, agent, episodes, self.last_evaluation, self.seconds())
        self._progress.evaluation(step, *self.last_evaluation, len(episodes))
        if self.best is None or mean > self.best[1]:
            self.best = step, mean
            checkpoint.save_best(self._directory, origin(self.config), step, mean, agent.state_dict())

    def _evaluating(self, step: int) -> None:
        self._progress.evaluating(step, self.config.evaluation.max_steps)

    def show(self, step: int, force: bool = False) -> None:
        """Show how far the run is."""
        self._progress.show(step, self.learner.updates, force=force)

    def summarise(self, step: int) -> None:
        """Keep what the run has cost so far, for comparisons."""
        agent, updates = self.learner.agent, self.learner.updates
        spending = self.budget.spending()
        self.summary.write(self.config, agent, step, updates, self.seconds(), self.parts, spending)

    def close(self) -> None:
        self.log.close()
        self.evaluator.close()

    def state_dict(self) -> dict[str, Any]:
        return {
            "means": self.means.state_dict(),
            "seconds": self.seconds(),
            "solved_at": self.solved_at,
            "last_evaluation": self.last_evaluation,
            "evaluated_at": self.evaluated_at,
            "evaluation_due": self.evaluation_due,
            "best": self.best,
            "parts": self.parts,
            "overfitting": self.overfitting.state_dict(),
            "log_offset": self.log.positions(),
        }

    def _load_state_dict(self, state: dict[str, Any]) -> None:
        self.means.load_state_dict(state["means"])
        self._seconds, self.solved_at = state["seconds"], state["solved_at"]
        last = state["last_evaluation"]
        self.last_evaluation = None if last is None else tuple(last)
        self.evaluated_at, self.evaluation_due = state["evaluated_at"], state["evaluation_due"]
        best = state.get("best")  # runs of earlier versions kept none
        self.best = None if best is None else tuple(best)
        self.parts = dict(state["parts"])
        self.overfitting = OverfittingMonitor(**state.get("overfitting", {}))

    def _log_means(self, step: int) -> None:
        learner = self.learner
        metrics = self.means.read()
        self.overfitting.replay = replay_loss(learner.agent, metrics) or self.overfitting.replay
        metrics |= {"updates": learner.updates, **learner.replay.metrics(), **learner.optimizer.metrics()}
        if (repeat := self.config.env.repeat) > 1:
            metrics["frames"] = step * repeat
        metrics |= self._watch_balance()
        metrics["time/seconds"] = self.seconds()
        metrics |= {f"time/{part}": seconds for part, seconds in learner.watch.seconds.items()}
        for part in {*learner.watch.seconds, *QUANTUM_PARTS}:
            self.parts[part] = self.parts.get(part, 0.0) + metrics.get(f"time/{part}", 0.0)
        learner.watch.seconds.clear()
        self.log.scalars(step, metrics)
        self.reporter.histograms(step, learner.replay.sampler)

    def _watch_overfitting(self, step: int, episodes: list[EvaluationEpisode]) -> None:
        """Log the world model's loss on held-out episodes beside replay's, and warn if they part."""
        if (replay := self.overfitting.replay) is None:
            return
        with self.learner.watch("evaluation"):
            held_out = held_out_loss(self.learner.agent, episodes)
        if held_out is None or not math.isfinite(held_out):
            return
        self.log.scalars(step, {"overfitting/held_out": held_out, "overfitting/replay": replay})
        if self.overfitting.evaluated(held_out):
            warn(
                f"step {step}: the world model overfits: its loss on held-out episodes is {held_out:.3g} and "
                f"was {self.overfitting.lowest:.3g}, while that on replay falls; fewer updates "
                "(train.replay_ratio) or a smaller world_model help",
                ("overfitting", self._directory),
            )

    def _watch_balance(self) -> dict[str, float]:
        """Warn, once, of groups whose gradients differ; return how often the worst of them do."""
        worst = self.learner.imbalance.worst()
        if worst is None:
            return {}
        if worst.updates >= MOST:
            warn(str(worst), ("imbalance", self._directory))
        return {"optimizer/imbalance": worst.updates / WINDOW}

    def seconds(self) -> float:
        """Return the seconds of all sessions together."""
        return self._seconds + (0.0 if self._begin is None else perf_counter() - self._begin)


def passed(step: int, stride: int, every: int) -> bool:
    """Tell whether the iteration that ended at `step` passed a multiple of `every`."""
    return step // every > (step - stride) // every
