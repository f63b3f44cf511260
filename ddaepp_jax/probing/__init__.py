"""Measures how much a network's features know, by linear heads, neighbours and diagnostics."""
