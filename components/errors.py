"""The errors that a user sees: what was wrong, where, and what to do; each kind has its exit code."""


class EmbedlineError(Exception):
    """Work that failed. `problem` says where and what, `remedy` what to do about it."""

    exit_code = 1

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy


class UsageError(EmbedlineError):
    """A wrong parameter, argument or file name."""

    exit_code = 2


class Refused(EmbedlineError):
    """A gate refused the model."""

    exit_code = 3


class DataInvalid(EmbedlineError):
    """The data set is not fit to train on."""

    exit_code = 4
