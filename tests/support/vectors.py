"""Published answers: golden nonces that other programs have found."""

from __future__ import annotations

import json
from pathlib import Path

VECTORS = json.loads((Path(__file__).parents[1] / "vectors.json").read_text())
# The smallest golden nonce of the usual block, by difficulty: "3" and so on.
SMALLEST = VECTORS["blocks"]["COMSM0010cloud"]["smallest_golden_by_difficulty"]
