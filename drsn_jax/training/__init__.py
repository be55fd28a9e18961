"""Training as pure functions of (state, batch): no disk, no configuration, no jit. Uses `models` and below."""
