"""The sections of a page: ``of_run`` returns that of one run, ``of_runs`` compares several."""
