"""The clients of a cloud, and the translation of its errors."""
