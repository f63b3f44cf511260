"""Pictures, tables, and the page of a run, made from the files of its directory, without JAX."""
