"""Compare runs: python compare.py runs/CartPole (see --help)."""

import sys

from qdreamer.cli import run

if __name__ == "__main__":
    run("compare", sys.argv[1:])
