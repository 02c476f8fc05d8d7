"""The two ways to instances: SSH and S3."""
