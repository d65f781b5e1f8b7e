"""What was learned, measured: frozen features and the tasks on them."""
