"""Train an agent: python train.py env=CartPole (see --help)."""

from qdreamer.agents.cli.command_line import main

if __name__ == "__main__":
    main()
