"""The old place of what is in tests/support/clerk.py now."""

from tests.support.clerk import Clerk, stubbed

__all__ = ["Clerk", "stubbed"]
