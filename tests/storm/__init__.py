"""A storm over the whole program: kills, damaged bytes, fuzzed input. See `python -m tests.storm --help`."""
