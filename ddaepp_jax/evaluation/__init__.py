"""What is measured on a network: features, held-out loss, samples. Knows nothing of training."""
