"""A training run: its loop, its state, what watches it and what it leaves behind."""
