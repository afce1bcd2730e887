"""Compare runs: python compare.py runs/CartPole (see --help)."""

import sys

try:
    from qdreamer.cli import run
except ImportError as error:
    sys.exit(f"error: {sys.executable} lacks QDreamer or a part of it ({error}): pip install -e .")

if __name__ == "__main__":
    run("compare", sys.argv[1:])
