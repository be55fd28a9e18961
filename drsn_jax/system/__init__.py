"""Processes, locks, files, progress, pictures and errors: what every room uses. Uses nothing of this package."""
