"""Command lines: arguments that several programs share, and how a program starts.

Nothing here imports JAX before a program's arguments are known, so that ``--help`` answers at once.
"""
