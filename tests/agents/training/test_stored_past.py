"""What a replayed sequence remembers is what its episode held, all the way from acting to the batch."""

import torch
from torch.testing import assert_close

from tests.golden.run import open_run

SMALL = (
    *(
        "agent=hybrid",
        "env=CartPole",
        "train.batch_length=6",
        "agent.imagination_starts=3",
        "train.forget=0.0",
    ),
    *("world_model.units=8", "world_model.core=8", "world_model.hidden=8", "world_model.memory=8"),
    *("sequence.head=4", "sequence.window=12", "optimizer=laprop", "replay=uniform"),
)


def test_a_batchs_memory_is_that_of_its_episodes():
    with open_run(*SMALL, rows=90) as run, torch.no_grad():
        rssm, replay = run.agent.world_model.rssm, run.replay
        sample = replay.sample(40)
        batch = run.learner.to_batch(sample)
        data = {name: torch.from_numpy(column) for name, column in replay._data.items()}
        longest = 0
        for b, (env, start) in enumerate(zip(*sample.starts, strict=True)):
            end = start + replay.length
            begin = start - int(data["is_first"][env, : start + 1].flip(0).int().argmax())
            rows = slice(begin, end)  # of the ring, which is not full yet
            state, stoch = data["state"][env, rows].double(), data["stoch"][env, rows].long()
            z = torch.nn.functional.one_hot(stoch, rssm.classes).double().flatten(1)
            action = torch.zeros(end - begin, batch.previous_action.shape[2], dtype=torch.float64)
            action[1:] = data["action"][env, begin : end - 1]
            first = data["is_first"][env, rows].double()
            whole = [x.unsqueeze(0) for x in (state, z, torch.zeros_like(z[0]), action, first)]
            expected = rssm.sequence.memory.observe(*whole, rssm.sequence.memory.initial(1))[:2]
            h, latents = state[start - begin :], z[start - begin :]
            carry = batch.carry
            one = type(carry.memory)(*(x[b : b + 1] for x in carry.memory))
            now = h, latents, carry.stoch[b], batch.previous_action[b], batch.is_first[b]
            found = rssm.sequence.memory.observe(*(x.unsqueeze(0) for x in now), one)[:2]
            for got, wanted in zip(found, expected, strict=True):
                assert_close(got, wanted[:, start - begin :], rtol=1e-9, atol=1e-9)
            longest = max(longest, start - begin)
        assert longest > 8  # sequences that have something to remember
