"""What is said of failed attempts: each way in which captures fail has its own remedy."""

from __future__ import annotations

import math
import re

import pytest

from loupe.attempts import Attempt, what_to_try
from loupe.matching import Matches

NONE = Attempt("incremental", 0, 0, 0.0, math.nan)
TEN = [f"p{index}.jpg" for index in range(10)]


@pytest.mark.parametrize(
    ("attempt", "matches", "remedy"),
    [
        (NONE, Matches(45, 0, 0, [[file] for file in TEN]), "no two photos show the same thing recognisably"),
        (
            NONE._replace(registered=5),
            Matches(45, 20, 0, [TEN[:5], TEN[5:]]),
            r"those of p0\.jpg \(5\) and p5\.jpg \(5\); take photos that lead from one to the other",
        ),
        (NONE, Matches(45, 20, 19, [TEN[:9], TEN[9:]]), "a turn on the spot, or show one flat thing.*; step aside"),
        (NONE._replace(flat=6), Matches(45, 20, 0, [TEN]), "a turn on the spot"),
        (NONE._replace(misfit=6), Matches(45, 20, 0, [TEN]), "fit no common lens; leave out fisheyes"),
        (NONE, Matches(45, 20, 18, [TEN]), "^take photos between these"),
        (NONE, Matches(3, 2, 0, [TEN[:3]]), "3 photos are few; take 20 or more"),
    ],
)
def test_every_failure_has_its_remedy(attempt: Attempt, matches: Matches, remedy: str) -> None:
    enough = 0.6 * sum(map(len, matches.groups))
    assert re.search(remedy, what_to_try([NONE, attempt], matches, enough))


def test_a_failed_attempt_has_numbers_but_no_error() -> None:
    assert str(NONE._replace(seconds=2.4)) == "incremental: 0 registered, 0 points, 2 s"
    assert math.isnan(NONE.numbers()["reprojection_error"])
    passed_over = NONE._replace(flat=4, misfit=3)
    assert "4 passed over as a turn on the spot, 3 passed over as over 4 px wrong" in str(passed_over)
