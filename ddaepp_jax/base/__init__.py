"""Errors, random streams, the device mesh, progress bars, and results that resume."""
