"""Diffusion mathematics: processes, samplers, guidance. It sees networks as callables only."""
