"""What several test modules share.

One rule: a test module imports from here, never from another test module.
"""
