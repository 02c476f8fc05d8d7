"""What a worker prints."""

from __future__ import annotations

import json
from typing import Any


def events(text: str) -> list[dict[str, Any]]:
    """Return the events that a worker has written, one per line."""
    return [json.loads(line) for line in text.splitlines()]
