"""Images into batches, benchmarks and prepared sets. Uses `system`."""
