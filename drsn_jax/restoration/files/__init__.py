"""Restoring image files: which, in which order, and written how. Uses `restoration.core`."""
