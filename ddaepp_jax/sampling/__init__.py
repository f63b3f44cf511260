"""Sampling of images from a trained network."""
