"""Facts about released weights, one module a family: the reference's arguments, names and
layouts.
"""
