import os
from pathlib import Path
from typing import Any

import pytest

from components.errors import EmbedlineError, UsageError
from serving.roles import served, served_versions
from serving.supervisor.state import State
from serving.triton import process_birth


@pytest.mark.parametrize(
    ("champion", "previous", "held"), [("2", "1", [2, 1]), ("1", None, [1]), ("1", "2", [1]), ("10", "9", [10, 9])]
)
def test_the_champion_is_the_highest_version_that_is_held(champion: str, previous: str | None, held: list[int]) -> None:
    assert served_versions({"champion": champion, "challenger": "11", "previous": previous}) == held


def test_before_the_first_promotion_nothing_is_served() -> None:
    with pytest.raises(UsageError, match="there is no champion yet"):
        served_versions({"champion": None, "challenger": "1", "previous": None})


def test_while_a_supervisor_restarts_its_server_nobody_starts_another(tmp_path: Path) -> None:
    State(os.getpid(), process_birth(os.getpid()) or 0, "").write(tmp_path)
    nothing: Any = None
    with pytest.raises(EmbedlineError, match="is being started"), served(tmp_path, nothing, nothing):
        pass
