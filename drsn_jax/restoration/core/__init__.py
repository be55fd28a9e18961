"""Restoring one image: tiles, one device, or rows over several devices."""
