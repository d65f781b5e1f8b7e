"""Sources, decoding, view rendering and the one loader."""
