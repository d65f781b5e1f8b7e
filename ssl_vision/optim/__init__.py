"""Optimizers, parameter groups and their recipe."""
