"""The sections of a page, a module each: ``of_run`` returns one run's, ``of_runs`` compares
several.
"""
