"""Train an agent: python train.py env=CartPole (see --help)."""

from agents.command_line import main

if __name__ == "__main__":
    main()
