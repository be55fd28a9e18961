"""Images scored under a protocol: entries, noise, scores, and the journal of a run. Uses `evaluation.metrics`."""
