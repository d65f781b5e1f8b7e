"""Weights: index, download, conversion, loading and export."""
