"""The user's machine: its folders, files, streams, signals and threads."""
