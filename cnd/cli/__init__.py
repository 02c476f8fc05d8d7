"""The command line: options, parsing, and the commands."""
