"""Point clouds: sampling, grouping, views; pure torch."""
