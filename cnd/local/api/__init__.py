"""The local cloud's side of HTTP: AWS's services, their state, who may call."""
