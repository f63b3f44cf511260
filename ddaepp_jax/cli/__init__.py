"""Arguments that several programs share, and the start of a program.

Nothing here imports JAX before a program's arguments are known, so that ``--help`` answers at once.
"""
