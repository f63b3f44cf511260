"""What becomes of each group of a config; ``ddaepp_jax.build`` is the door."""
