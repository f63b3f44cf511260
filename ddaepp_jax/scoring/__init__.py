"""Scores of images against a reference: FID and its relatives.

``extractors`` are networks whose features are compared, ``image_sets`` are images and their
features, ``references`` are stored statistics, ``metrics`` are the scores of features, and
``score`` goes from images to scores, and ``samples`` from a network. ``by_name`` opens what a user
names.
"""

FEWEST = 10  # The least number of images that are scored: the Inception Score has 10 splits.
