"""Where a run is assembled: training, evaluation, run folders, checkpoints."""
