"""A study: restoration in tiles, with thresholds from each tile, from the whole image, or from cheaper passes over it."""
