"""The command line: one file per command, one parser, one help."""
