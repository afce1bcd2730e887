"""Heads with a circuit in them, in four patterns, and the controls that could show it to be useless."""
