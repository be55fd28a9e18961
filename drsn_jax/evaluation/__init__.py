"""Protocols, scores and reports. Uses `restoration` and below."""
