"""What a client tries again, and how long it waits before that."""

from __future__ import annotations

import random

from components.errors import EmbedlineError

MOST_TRIES = 6
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0


class Unavailable(EmbedlineError):
    """No answer now, and perhaps one later: in `after` seconds at the earliest."""

    def __init__(self, problem: str, remedy: str = "", after: float = 0) -> None:
        super().__init__(problem, remedy)
        self.after = after


def pause(tries: int, error: Unavailable, left: float) -> float:
    """Returns how many seconds to wait after so many failed tries, `left` being what the deadline leaves.

    It doubles from try to try and is drawn at random, so that clients that failed together do not come back together;
    what the server asks for is waited out in any case. Raises `error` where no further try is worth it.
    """
    doubled: float = min(FIRST_PAUSE * 2 ** (tries - 1), LONGEST_PAUSE)
    wait = error.after + random.uniform(0.5, 1) * doubled
    if tries >= MOST_TRIES or wait >= left:
        raise error
    return wait
