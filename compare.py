"""Compare runs: python compare.py runs/CartPole (see --help)."""

from qdreamer.analysis.report.compare_command import main

if __name__ == "__main__":
    main()
