"""The local cloud's hosts: boot, SSH, user data, metadata."""
