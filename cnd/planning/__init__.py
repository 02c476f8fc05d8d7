"""Before the purchase: what a run may take, cost and lack."""
