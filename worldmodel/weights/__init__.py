"""Weights of a network made of fewer parameters: by a circuit's probabilities, and by the controls."""
