"""Resources of AWS: created, launched, terminated, removed; no SSH commands."""
