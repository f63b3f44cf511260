"""The difference between rows of scores."""


def differ(ours, theirs):
    """Returns the largest difference between two rows, relative for scores above 1."""
    assert ours.keys() == theirs.keys()
    return max(abs(ours[name] - theirs[name]) / max(1, abs(theirs[name])) for name in ours)
