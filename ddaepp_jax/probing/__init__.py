"""How much a network's features know: features on disk, heads, nearest neighbours, diagnostics."""
