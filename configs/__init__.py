"""Settings: Hydra's groups of values, and what makes typed, checked dataclasses of them."""
