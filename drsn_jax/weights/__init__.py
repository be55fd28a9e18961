"""Readers of every weight file, the shipped models, and `load_model`. Uses `config` and below."""
