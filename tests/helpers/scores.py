"""The difference between two rows of scores."""


def differ(ours, theirs):
    """Returns the largest relative difference of two rows of scores.

    Scores below 1 are compared absolutely, as distances are relative to the features' spread.
    """
    assert ours.keys() == theirs.keys()
    return max(abs(ours[name] - theirs[name]) / max(1, abs(theirs[name])) for name in ours)
