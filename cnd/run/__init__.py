"""The orchestrator: a run from its first event to its result, and its records."""
