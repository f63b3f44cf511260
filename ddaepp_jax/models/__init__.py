"""Networks: ``(x, t, y) -> (out, features)``, pure Flax linen modules that know nothing of
noise.
"""
