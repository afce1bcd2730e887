"""python train.py …: what needs no torch is answered before torch is imported: --help, typing errors.

All else, and all of what is checked here, is `agents.cli.command_line`'s business.
"""

import os
import sys

from qdreamer.agents.cli.composition import compose_all
from qdreamer.agents.cli.help import help_text
from qdreamer.agents.cli.overrides import HELP, members, read
from qdreamer.configs.console import fail
from qdreamer.configs.schema import ConfigError


def main(arguments: list[str] | None = None) -> None:
    """Run train.py; the arguments are those of the command line unless given."""
    words = sys.argv[1:] if arguments is None else arguments
    if "RANK" not in os.environ:  # else one of torchrun's processes: they refuse together
        try:
            flags, overrides = read(words)
            for member in members(overrides)[:1]:  # all of them: later
                compose_all(member)
        except ConfigError as error:
            fail(error)
        if any(flag in HELP for flag in flags):
            print(help_text())
            return
    from qdreamer.agents.cli import command_line  # lazily: torch takes seconds

    command_line.main(words)
