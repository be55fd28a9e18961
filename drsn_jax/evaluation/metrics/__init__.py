"""Measures of image quality and the protocols of benchmarks. The lowest part of `evaluation`."""
