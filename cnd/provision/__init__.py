"""Resources of AWS: made, launched, terminated, removed; no commands over SSH."""
