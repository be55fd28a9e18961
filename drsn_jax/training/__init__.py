"""Losses, state, the pure training step, checkpoints and the loop."""
