"""Training: the sharded step, its state, the loop around it, and what the loop saves and writes."""
