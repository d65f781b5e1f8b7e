"""Point clouds: files, layouts and built-in shapes, and their loader."""
