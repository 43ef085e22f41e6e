"""Drift tests: one idea a file, found by the file's name; a new test is one new file here.

`drift/NAME.py` holds `class Settings(Section)`, what `params.yaml` may say beside `name`, and

    def measure(settings: Settings, samples: Samples) -> Measured

which returns the test's statistic for all ways to part the samples, and raises `Inapplicable` where they lack what it
looks at. What is computed must not depend on which rows are the window's, but through `samples.ways`.
"""
