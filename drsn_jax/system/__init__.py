"""Processes, locks, files, progress, pictures and errors, for every room."""
