"""Images from a trained network."""
