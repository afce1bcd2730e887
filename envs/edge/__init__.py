"""Where an environment begins: checks, errors in one line, a process that stays the run's."""
