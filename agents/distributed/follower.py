"""A rank other than 0: a learner that does what it is told."""

from pathlib import Path

from qdreamer.agents.distributed.orders import begin, receive, verify
from qdreamer.agents.distributed.parallel import Together
from qdreamer.agents.runs import checkpoint
from qdreamer.agents.training.config import Config
from qdreamer.agents.training.interrupt import Interrupt
from qdreamer.agents.training.training import make_learner, prepare_torch


class Follower:
    """Replay and learner as rank 0 has them, from the same seed or the same checkpoint."""

    def __init__(self, config: Config, directory: Path, ranks: Together) -> None:
        prepare_torch(config)
        self.ranks = ranks
        self.learner = make_learner(config, directory, ranks)
        self.replay = self.learner.replay
        if checkpoint.exists(directory):
            state = checkpoint.load(directory)
            with checkpoint.translate_load_errors(directory):
                self.learner.load_state_dict(state["learner"])
                self.replay.load_state_dict(state["replay"])

    def run(self) -> int | None:
        """Until rank 0 ends the run; the signal that interrupted it."""
        with Interrupt() as interrupt:
            while True:
                order, interrupted = receive(self.ranks, interrupt.signal)
                if order.begin:
                    begin(self.ranks, self.learner)
                for env, rows in order.rows:
                    self.replay.add(env, rows)
                for _ in range(order.updates):
                    self.learner.update()
                if order.verify:
                    verify(self.ranks, self.learner)
                if order.end:
                    return interrupted
