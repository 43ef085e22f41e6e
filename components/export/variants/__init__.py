"""What a student is exported as: one variant a file, which `export.variants` of `params.yaml` names.

`NAME.py` holds its `Settings`, among them `parity_cosine`, the least cosine of its vectors to the student's, and
`write(settings, source, directory, items)`, which writes the variant to `directory`: from the graphs in `source`, which
are those of the student in fp32 as its exporter leaves them, and from items like those to come. A variant that not
every machine computes has `obstacle()`, which returns why this one does not, or None.
"""
