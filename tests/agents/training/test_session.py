"""What a session refuses before it begins."""

import pytest

from qdreamer.agents.distributed.ranks import SINGLE_PROCESS, SingleProcess
from qdreamer.agents.training.session import check_ranks
from qdreamer.configs.schema import ConfigError


class TwoRanks(SingleProcess):
    size = 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.batch_size=5", "use a multiple, as train.batch_size=4"),
        ("train.batch_size=1", "use a multiple, as train.batch_size=2"),
        ("replay.capacity=33", "use at least replay.capacity=34"),
        ("quantum=aer", "use quantum=statevector, or one process"),
        ("device=cuda:0", "use device=cuda, one for each"),
    ],
)
def test_settings_that_two_processes_cannot_share(override, message, make_config):
    config = make_config("replay=quantum", override)
    with pytest.raises(ConfigError, match=message):
        check_ranks(config, TwoRanks())
    check_ranks(config, SINGLE_PROCESS)


def test_two_processes_share_the_default_agent(make_config):
    check_ranks(make_config(), TwoRanks())
    check_ranks(make_config("replay.capacity=34", "device=cuda"), TwoRanks())
