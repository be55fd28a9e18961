"""Detection of objects in images, as in the paper (section 5.2). Uses `evaluation.metrics`."""
