"""The training loop and what touches disk: data, feed, log, workdir, checkpoints. Uses `evaluation` and below."""
