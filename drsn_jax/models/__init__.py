"""The networks as Flax modules: generator, critic, VGG19 and their blocks. Uses `ops` and `system`."""
