"""What the rungs of structure from motion came to, and what to try when none came far enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from loupe.matching import Matches

# A model whose points miss their pixels by more than so many in the mean shows something else than the photos.
LARGEST_ERROR = 4.0
# Fewer photos than this hardly place each other.
_FEW = 10


class Attempt(NamedTuple):
    """What a rung came to.

    Attributes:
        rung: its name.
        registered, points: photos that its largest model places, and points in it.
        track_length: photos that see a point, in the mean.
        error: mean reprojection error in pixels of the photos.
        seconds: that it took, features and matches included where it is the first of its setting.
        others: photos in its other models.
        flat: photos in the largest model that was passed over because its points are seen from one direction only.
        misfit: photos in the largest one that was passed over because its points miss their pixels.
    """

    rung: str
    registered: int
    points: int
    track_length: float
    error: float
    seconds: float = 0.0
    others: tuple[int, ...] = ()
    flat: int = 0
    misfit: int = 0

    def __str__(self) -> str:
        said = f"{self.rung}: {self.registered} registered, {self.points} points"
        if self.points:
            said += f", {self.track_length:.1f} photos a point, error {self.error:.2f} px"
        if self.others:
            said += f", other models of {', '.join(map(str, self.others))}"
        if self.flat:
            said += f", {self.flat} passed over as a turn on the spot"
        if self.misfit:
            said += f", {self.misfit} passed over as over {LARGEST_ERROR:g} px wrong"
        return f"{said}, {self.seconds:.0f} s"

    def numbers(self) -> dict[str, float]:
        """For the curves of a log, by name."""
        return {
            "registered": self.registered,
            "points": self.points,
            "track_length": self.track_length,
            "reprojection_error": self.error,
            "seconds": self.seconds,
            "other_models": len(self.others),
        }


def what_to_try(attempts: Sequence[Attempt], matches: Matches, enough: float) -> str:
    """The likeliest of the ways in which captures fail, and what mends it."""
    count = sum(map(len, matches.groups))
    largest, *others = matches.groups
    if not matches.matching:
        return (
            "no two photos show the same thing recognisably; take sharp, textured photos of one place, each overlapping"
            " the next by two thirds, or give cameras"
        )
    if len(largest) < enough:
        joined = " and ".join(f"{group[0]} ({len(group)})" for group in (largest, others[0]))
        return (
            f"the photos fall into groups that have nothing in common, the largest those of {joined}; take photos that"
            " lead from one to the other, or make a capture of each"
        )
    if matches.is_flat or max(attempt.flat for attempt in attempts) >= enough:
        return (
            "the photos fit a turn on the spot, or show one flat thing through an unknown lens; step aside by about a"
            " tenth of the distance between photos, use photos with EXIF, or give cameras"
        )
    if max(attempt.misfit for attempt in attempts) >= enough:
        return (
            "the photos hang together but fit no common lens; leave out fisheyes and photos that were cropped, warped"
            " or stabilised, or give cameras"
        )
    if count < _FEW:
        return (
            f"{count} photos are few; take {2 * _FEW} or more around the scene, each overlapping the next by two thirds"
        )
    return (
        "take photos between these, each overlapping the next by two thirds, from different positions, or give cameras"
    )
