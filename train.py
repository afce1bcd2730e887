"""Train an agent: python train.py env=CartPole (see --help)."""

import sys

from qdreamer.cli import run

if __name__ == "__main__":
    run("train", sys.argv[1:])
