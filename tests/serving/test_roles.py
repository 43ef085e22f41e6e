import pytest

from components.errors import UsageError
from serving.roles import served_versions


@pytest.mark.parametrize(
    ("champion", "previous", "held"), [("2", "1", [2, 1]), ("1", None, [1]), ("1", "2", [1]), ("10", "9", [10, 9])]
)
def test_the_champion_is_the_highest_version_that_is_held(champion: str, previous: str | None, held: list[int]) -> None:
    assert served_versions({"champion": champion, "challenger": "11", "previous": previous}) == held


def test_before_the_first_promotion_nothing_is_served() -> None:
    with pytest.raises(UsageError, match="there is no champion yet"):
        served_versions({"champion": None, "challenger": "1", "previous": None})
