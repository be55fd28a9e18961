"""Configurations: their files, their values, and the networks and steps built from them. Uses `data`, `training` and below."""

from drsn_jax.config.files import base_config, config_names, load_config

__all__ = ["base_config", "config_names", "load_config"]
