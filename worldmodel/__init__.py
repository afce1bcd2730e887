"""Learns the world: encoder, latents, sequence models, heads and the world-model loss."""
