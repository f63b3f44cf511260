"""The mathematics of noise: processes, samplers, guidance. They take callables and know no
network.
"""
