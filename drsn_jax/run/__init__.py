"""The training loop and all that touches the disk: data, feed, log, workdir, checkpoints."""
