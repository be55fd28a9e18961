"""Restoring arrays, image files and videos of any size with a trained generator. Uses `weights` and below."""
