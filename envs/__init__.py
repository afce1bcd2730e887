"""The outside world: one factory, wrappers, vector environments, episode seeds."""
