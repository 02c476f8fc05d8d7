"""Tests of CND; `CONTRIBUTING.md` says which there are, and how to run them."""

import os

# The tests start a thousand processes: what these import is compiled once.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
