"""A survey of an accelerator: speed, memory and parity in a limited time, as a table for the documentation."""
