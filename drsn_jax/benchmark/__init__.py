"""`drsn-jax bench`: our speed against Keras. Uses `interop` and below."""
