"""Images addressed by index, their order, their augmentation. No iterator state, no TensorFlow at
run time.
"""
