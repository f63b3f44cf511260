"""The search for the bottleneck: short runs of all candidates, and the decision between them."""
