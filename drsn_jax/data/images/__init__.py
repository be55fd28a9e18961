"""Image files as arrays: formats, orientation, depth. The lowest part of `data`."""
