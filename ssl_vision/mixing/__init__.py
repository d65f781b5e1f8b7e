"""Mixing of images and labels."""
