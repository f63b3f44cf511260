"""How far two rows of scores are apart."""


def differ(ours, theirs):
    """The largest relative difference of two rows of scores, whose distances are relative to the
    features' spread.
    """
    assert ours.keys() == theirs.keys()
    return max(abs(ours[name] - theirs[name]) / max(1, abs(theirs[name])) for name in ours)
