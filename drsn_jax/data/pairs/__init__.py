"""Folders of pairs, and their stream of batches through tf.data. Uses `data.images`."""
