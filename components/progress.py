"""What a stage says while it runs."""


def say(line: str) -> None:
    """Prints a line at once, whatever reads it."""
    print(line, flush=True)
