"""Evaluate a trained run on unseen episodes: python evaluate.py runs/CartPole/classical/seed_0."""

import sys

try:
    from qdreamer.cli import run
except ImportError as error:
    sys.exit(f"error: {sys.executable} lacks QDreamer or a part of it ({error}): pip install -e .")

if __name__ == "__main__":
    run("evaluate", sys.argv[1:])
