"""Lives in the world: actor, critic, imagination, replay, optimizers, the training loop."""
