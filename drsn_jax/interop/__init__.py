"""Weights and programs for other frameworks: Keras, PyTorch, TensorFlow, StableHLO. Uses `planning` and below."""
