"""Blur made on the device from photographs and clips, inside jit. Uses `data.pairs` and below."""
