"""Training objectives, which request passes through the network and read its features."""
