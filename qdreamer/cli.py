"""The console command `qdreamer train|evaluate|compare`: train.py, evaluate.py and compare.py, installed."""

import sys
from importlib import import_module

from qdreamer import __version__
from qdreamer.configs.console import fail
from qdreamer.configs.streams import settle

COMMANDS = {
    "train": "qdreamer.agents.cli.train_command",
    "evaluate": "qdreamer.agents.cli.evaluate_command",
    "compare": "qdreamer.analysis.report.compare_command",
}
USAGE = f"""usage: qdreamer {{{",".join(COMMANDS)}}} …

  qdreamer train env=CartPole                     train an agent; the same command again resumes the run
  qdreamer evaluate runs/CartPole/hybrid/seed_0   returns over unseen episodes, and a video
  qdreamer compare runs/CartPole                  one report on many runs, with a verdict

qdreamer <command> --help says more; qdreamer --version prints {__version__}."""


def run(word: str, arguments: list[str]) -> None:
    """Run a command; whatever becomes of its terminal, and whenever Ctrl-C comes, it ends with one line."""
    settle()
    try:
        import_module(COMMANDS[word]).main(arguments)
    except KeyboardInterrupt:
        fail("interrupted before anything began", 130)


def main() -> None:
    """Hand the rest of the command line to the command that its first word names."""
    word, *rest = sys.argv[1:] or ["--help"]
    if word in ("-h", "--help"):
        print(USAGE)
    elif word == "--version":
        print(__version__)
    elif word in COMMANDS:
        run(word, rest)
    else:
        fail(f"{word} is not one of {', '.join(COMMANDS)}; see qdreamer --help")
