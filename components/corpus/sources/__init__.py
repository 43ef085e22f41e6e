"""Where rows come from: one file each, found by its name, which `corpus.source` gives.

A file holds `Settings`, `inputs(settings)`, which returns what the rows are read from, with hashes, and
`build(settings, directory, quarantine)`, which writes the rows and images below `directory` and returns the tasks.
"""
