"""What the user sees: progress lines, the live table, the report."""
