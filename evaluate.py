"""Evaluate a trained run on unseen episodes: python evaluate.py runs/CartPole/classical/seed_0."""

from qdreamer.agents.cli.evaluate_command import main

if __name__ == "__main__":
    main()
