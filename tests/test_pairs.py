"""Which pairs are compared: along walks, round their loops, and among photos in no order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loupe.camera import Array
from loupe.pairs import all_pairs, most_alike, pairs_along_walk


@given(st.integers(1, 400), st.integers(2, 80))
def test_a_walk_is_followed_and_its_loops_are_closed(count: int, most: int) -> None:
    pairs = set(pairs_along_walk(count, most))
    assert all(0 <= one < other < count for one, other in pairs)
    for apart in (1, 2, 3, 10, 16, 32, 64):
        assert {(one, one + apart) for one in range(count - apart)} <= pairs
    # Whatever frames show the same place late and early, some near to both are compared.
    period = max(5, -(-count // most))
    late = (count - 1) // period * period
    if late:
        assert (0, late) in pairs
        assert {(one, late) for one in range(0, late, period)} <= pairs


def test_a_long_walk_costs_little_more_than_its_length() -> None:
    assert len(pairs_along_walk(12, 60)) < len(all_pairs(12)) == 66
    assert pairs_along_walk(9, 60) == all_pairs(9)
    assert len(pairs_along_walk(120, 60)) < len(all_pairs(120)) / 3
    assert len(pairs_along_walk(1000, 60)) < 1000 * 17 + len(all_pairs(60))


def looks(place: int, seed: int, features: int = 300) -> Array:
    """Features of a photo of one of several places, whose features cluster around 60 of its own."""
    kinds = np.random.default_rng(place).uniform(0, 255, (60, 16))
    random = np.random.default_rng(1000 + seed)
    return np.asarray(
        (kinds[random.integers(0, 60, features)] + random.normal(0, 12, (features, 16))).clip(0, 255), np.uint8
    )


def test_photos_of_one_place_are_compared_whatever_their_order() -> None:
    """Eighteen photos of three places, shuffled, each with five others: those of its place."""
    places = np.random.default_rng(3).permutation(18) % 3
    pairs = most_alike([looks(place, seed) for seed, place in enumerate(places.tolist())], each=5, seed=0)
    assert pairs == [(one, other) for one, other in all_pairs(18) if places[one] == places[other]]


def test_photos_without_features_are_compared_with_somebody() -> None:
    nothing = np.zeros((0, 16), np.uint8)
    for photos in ([nothing] * 4, [looks(0, 0), nothing, looks(1, 1), looks(1, 2)]):
        pairs = most_alike(photos, each=1, seed=0)
        assert {place for pair in pairs for place in pair} == {0, 1, 2, 3}
    assert (2, 3) in pairs


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_seed_gives_the_same_pairs(seed: int) -> None:
    photos = [looks(place % 4, place, features=40) for place in range(12)]
    assert most_alike(photos, 3, seed) == most_alike(photos, 3, seed)
