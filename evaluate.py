"""Evaluate a trained run on unseen episodes: python evaluate.py runs/CartPole/classical/seed_0."""

import sys

from qdreamer.cli import run

if __name__ == "__main__":
    run("evaluate", sys.argv[1:])
