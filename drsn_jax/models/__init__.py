"""The networks: Flax Linen modules and nothing else."""
