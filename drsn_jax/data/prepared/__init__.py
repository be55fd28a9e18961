"""Benchmarks stored as TensorFlow Datasets, and reading them back. Uses `data.benchmarks` and below."""
