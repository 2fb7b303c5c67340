"""Checkpoints of others, read into ours."""
