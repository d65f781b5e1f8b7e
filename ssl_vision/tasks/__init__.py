"""Evaluation tasks: each asks a run of frozen weights for features and gives a result."""
