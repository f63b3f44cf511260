"""Images addressed by index, their order, and their augmentation.

No part keeps iterator state, and none needs TensorFlow at run time.
"""
