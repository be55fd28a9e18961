"""Weights and networks to and from other frameworks: Keras, PyTorch, exported programs."""
