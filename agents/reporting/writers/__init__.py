"""Outputs of a run, chosen by a list of names: `logging.writers=[jsonl,tensorboard]`."""
