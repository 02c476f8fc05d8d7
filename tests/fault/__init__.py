"""Faults are injected, and nothing is lost, leaked or falsely said."""
