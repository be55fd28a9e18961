"""Restoration of videos frame by frame. Uses `restoration.files` and `restoration.core`."""
