"""Restoration of image files: selection, order and encoding. Uses `restoration.core`."""
