"""The sharded train step and what surrounds it: state, optimizer, EMA, loop, checkpoints,
writers.
"""
