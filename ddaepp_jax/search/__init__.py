"""The search for the block whose feature conditions the others."""
