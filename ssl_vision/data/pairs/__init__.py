"""Pairs of images of one scene: lists, folders, videos and built-in scenes, and their loader."""
