"""Weights of reference implementations, and their conversion.

Each implementation (a kind) has a module, its family, which describes its weights:

- ``Arguments``: a dataclass of the arguments of the reference's class, under its own names and with
  its own defaults. ``network()`` builds this package's network, and ``input_shape`` is the (H, W,
  C) of the images or latents that it takes.
- ``arguments(tensors)``: the arguments, read off the tensors.
- ``GUESSED``: names of arguments that the tensors only suggest; the user may give others.
- ``reference_name(network, path)``: the name of the parameter at a Flax path in the reference's
  ``state_dict``. Where Flax stacks the parameters of all blocks, ``{}`` stands for the number of
  the block.
- ``arranged(network, path, tensor, shape)``: the tensor in the reference's layout, with its rows in
  the order of ours; ``shape`` is the shape of our parameter.
- ``MARKS``: names of tensors by which such a network is recognised.
- ``RENAMED``, where older files have other names: parts of those, and of the names now.
- ``LEFT_OUT``: patterns of names of tensors that are not parameters.
"""

NETWORKS = ("u-vit", "ddae-unet", "dit", "lightningdit")  # diffusion networks: they become runs
AUTOENCODERS = ("autoencoder-kl", "va-vae", "taesd")
KINDS = (*NETWORKS, *AUTOENCODERS, "inception-fid")
