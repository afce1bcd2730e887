"""Groups of parameters with learning rates and turns of their own."""

import pytest
import torch

from qdreamer.agents.cli.composition import load_config
from qdreamer.agents.optim.laprop import LaProp
from qdreamer.agents.training.training import Run, make_agent
from qdreamer.configs.schema import ConfigError

SMALL = (
    *("agent=classical", "world_model.units=8", "world_model.deter=16", "world_model.hidden=8"),
    *("world_model.stoch=3", "world_model.classes=4", "train.batch_size=4", "train.batch_length=8"),
    *("logging.writers=[jsonl]", "optimizer.warmup=0"),
)
ALTERNATING = "optimizer.groups={actor: {every: 2}, critic: {every: 2, phase: 1}}"


def filled(config, path):
    run = Run(config, path)
    for _ in range(40):
        run.collector.step(random=True)
    return run


def moved(learner, before):
    """Parts whose weights an update changed."""
    parts = learner.agent.parts().items()
    return {
        n
        for n, part in parts
        if any(not torch.equal(p, q) for p, q in zip(part.parameters(), before[n], strict=True))
    }


def test_groups_that_alternate_leave_each_other_untouched_to_the_bit(make_config, tmp_path):
    run = filled(make_config(*SMALL, ALTERNATING), tmp_path)
    learner, changed = run.learner, []
    run.learner.update()  # the heads start at zero: from now on every part has a gradient
    assert learner.imbalance.names == ["actor", "critic", "rest"]
    for _ in range(4):
        before = {
            n: [p.detach().clone() for p in part.parameters()] for n, part in learner.agent.parts().items()
        }
        learner.update()
        changed.append(moved(learner, before))
    run.close()
    always = set(learner.agent.parts()) - {"actor", "critic"}
    assert changed == [always | {name} for name in ("critic", "actor", "critic", "actor")]


def test_groups_resume_with_their_turns(make_config, tmp_path):
    whole = LaProp.make(make_config(*SMALL, ALTERNATING).optimizer, make_agent(make_config(*SMALL)))
    agent = make_agent(make_config(*SMALL))
    half = LaProp.make(make_config(*SMALL, ALTERNATING).optimizer, agent)
    for optimizer, steps in ((whole, range(5)), (half, range(3))):
        train(optimizer, steps)
    resumed = LaProp.make(make_config(*SMALL, ALTERNATING).optimizer, agent)
    resumed.load_state_dict(half.state_dict())
    train(resumed, range(3, 5))
    for group, other in zip(whole.param_groups, resumed.param_groups, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(group["params"], other["params"], strict=True))


def train(optimizer, steps):
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.randn(p.shape, generator=generator)
        optimizer.step()


def test_rates_and_names(make_config):
    config = make_config(*SMALL, "optimizer.groups.actor.lr=1e-4", "optimizer.groups.rssm.prior.every=3")
    agent = make_agent(config)
    optimizer = LaProp.make(config.optimizer, agent)
    found = {g["name"]: (g["lr"], g.get("every", 1)) for g in optimizer.param_groups}
    rate = config.optimizer.lr
    assert found == {"actor": (1e-4, 1), "rssm.prior": (rate, 3), "rest": (rate, 1)}
    assert sorted(id(p) for g in optimizer.param_groups for p in g["params"]) == sorted(
        map(id, agent.trainable())
    )


def test_one_group_of_all_changes_nothing(make_config):
    agents = [make_agent(make_config(*SMALL)) for _ in range(2)]
    names = ",".join(f"{name}: {{}}" for name in agents[0].parts())
    plain = LaProp.make(make_config(*SMALL).optimizer, agents[0])
    named = LaProp.make(make_config(*SMALL, f"optimizer.groups={{{names}}}").optimizer, agents[1])
    for optimizer, agent in ((plain, agents[0]), (named, agents[1])):
        for step in range(3):
            for k, p in enumerate(agent.trainable()):
                p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(100 * step + k))
            optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(*(agent.trainable() for agent in agents), strict=True))


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        (
            "{actr: {every: 2}}",
            r"optimizer\.groups\.actr names no part of this agent \(did you mean actor\?\)",
        ),
        ("{actor: {evry: 2}}", r"unknown key optimizer\.groups\.actor\.evry"),
        ("{actor: {every: 2, phase: 2}}", r"phase=2 must be less than every=2"),
        ("{actor: {lr: 0}}", r"optimizer\.groups\.actor\.lr=0 must be greater than 0"),
        ("{rssm: {every: 2}, rssm.prir: {every: 2}}", r"did you mean prior\?"),
        ("3", r"optimizer\.groups=3 must be a mapping"),
    ],
)
def test_groups_that_cannot_be(groups, said):
    with pytest.raises(ConfigError, match=said):
        LaProp.make(
            load_config([*SMALL, f"optimizer.groups={groups}"]).optimizer, make_agent(load_config([*SMALL]))
        )
