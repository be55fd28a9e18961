"""DRSN-GAN in JAX: blind motion deblurring with deep residual shrinkage blocks."""

__version__ = "0.1.0"
