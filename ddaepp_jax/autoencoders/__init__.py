"""Autoencoders: images (B, H, W, 3) in [-1, 1] to latents and back.

A network has the methods ``encode``, which gives moments, and ``decode``. Moments are the mean and
the logarithm of the variance of each latent, along the channels; a network without variances gives
the latents alone. ``stored`` keeps a network in a directory, with the numbers by which its latents
are normalised.
"""
