"""Memory, devices and settings that fit a machine. Uses `run` and below."""
