"""Everything that measures; only the command line imports it."""
