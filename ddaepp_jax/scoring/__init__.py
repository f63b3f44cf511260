"""How good images are: the networks whose features judge them, references, and the scores."""
