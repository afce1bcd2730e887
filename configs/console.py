"""How a command refuses what cannot be right: one line on standard error that names the fix."""

import argparse
import sys
from typing import NoReturn


def one_line(error: BaseException | str) -> str:
    """Return what an error says, without line breaks."""
    return " ".join(str(error).split())


def fail(error: BaseException | str, code: int = 2) -> NoReturn:
    """Print one line and end the process with `code`."""
    print(f"error: {one_line(error)}", file=sys.stderr)
    sys.exit(code)


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        fail(f"{message}; see --help")
