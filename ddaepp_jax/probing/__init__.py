"""Probes of a network's features: linear heads, nearest neighbours and diagnostics."""
