"""Alignment of two sets of cameras."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loupe.align import compare_cameras, compare_cameras_of_one_world, fit_similarity
from loupe.camera import Camera
from loupe.errors import InputError


def turn(degrees: float, axis: tuple[float, float, float]) -> np.ndarray:
    direction = np.array(axis) / np.linalg.norm(axis)
    return np.asarray(cv2.Rodrigues(np.radians(degrees) * direction)[0])


def camera(rotation: np.ndarray, center: np.ndarray) -> Camera:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, -rotation @ center
    return Camera(64, 48, 50, 50, 32, 24, pose)


@given(st.integers(0, 10_000), st.floats(0.01, 100), st.integers(3, 12), st.booleans())
def test_a_known_similarity_is_found(seed: int, scale: float, count: int, flat: bool) -> None:
    random = np.random.default_rng(seed)
    source = random.normal(size=(count, 3)) * [1, 1, 0 if flat else 1]
    rotation, shift = turn(random.uniform(0, 180), (1, *random.normal(size=2))), random.normal(size=3)
    found = fit_similarity(source, scale * source @ rotation.T + shift)
    assert found.scale == pytest.approx(scale)
    np.testing.assert_allclose(found.rotation, rotation, atol=1e-6)
    np.testing.assert_allclose(found.translation, shift, atol=1e-6 * (1 + scale))
    np.testing.assert_allclose(found.apply(source), scale * source @ rotation.T + shift, atol=1e-6 * (1 + scale))


def test_a_mirror_image_is_not_taken_for_a_rotation() -> None:
    source = np.random.default_rng(0).normal(size=(10, 3))
    assert np.linalg.det(fit_similarity(source, source * [1, 1, -1]).rotation) == pytest.approx(1)


def test_noise_is_split_as_least_squares_does() -> None:
    """The fit is no worse than the similarity that made the noisy points, and nudging it makes it worse."""
    random = np.random.default_rng(1)
    source, noise = random.normal(size=(30, 3)), random.normal(size=(30, 3)) * 0.1
    target = 2 * source @ turn(40, (1, 2, 3)).T + noise
    found = fit_similarity(source, target)
    best = ((found.apply(source) - target) ** 2).sum()
    assert best <= (noise**2).sum()
    for nudged in (
        found._replace(scale=found.scale * 1.01),
        found._replace(rotation=turn(1, (0, 1, 0)) @ found.rotation),
        found._replace(translation=found.translation + 0.02),
    ):
        assert ((nudged.apply(source) - target) ** 2).sum() > best


def test_disagreement_is_the_planted_one() -> None:
    """The same cameras in another world agree; one turned by 2 degrees is found, and so is one moved."""
    random = np.random.default_rng(2)
    true = [camera(turn(10 * i, (1, 0.3, 0)), random.normal(size=3)) for i in range(12)]
    world = turn(77, (1, 1, 0))
    moved = [camera(c.cam_from_world[:3, :3] @ world.T, 3 * world @ c.center + [5, 6, 7]) for c in true]
    same = compare_cameras(moved, true)
    assert same.degrees.max() < 1e-5
    assert same.distance.max() < 1e-9
    moved[4] = camera(turn(2, (0, 1, 1)) @ moved[4].cam_from_world[:3, :3], moved[4].center)
    turned = compare_cameras(moved, true)
    assert turned.degrees[4] == pytest.approx(2, abs=1e-6)
    assert turned.degrees[[0, 1, 2, 3, 5, 6]].max() < 1e-5
    assert same.radius == pytest.approx(
        max(np.linalg.norm(c.center - np.mean([d.center for d in true], 0)) for c in true)
    )


def test_cameras_of_one_world_are_not_aligned() -> None:
    """A world turned by 2 degrees about the mean position of its cameras disagrees by these 2 degrees."""
    positions = np.array([[3.0, 0, 0], [-3, 0, 0], [0, 1, 0], [0, -1, 0]])
    true = [camera(turn(10 * i, (1, 0.3, 0)), position) for i, position in enumerate(positions)]
    world = turn(2, (0, 0, 1))
    turned = [camera(c.cam_from_world[:3, :3] @ world.T, world @ c.center) for c in true]
    found = compare_cameras_of_one_world(turned, true)
    np.testing.assert_allclose(found.degrees, 2, atol=1e-9)
    step = 2 * np.sin(np.radians(1))
    np.testing.assert_allclose(found.distance, [step, step, step / 3, step / 3], atol=1e-12)
    assert found.radius == pytest.approx(3)
    assert compare_cameras(turned, true).degrees.max() < 1e-5


def test_too_little_to_align_is_refused() -> None:
    with pytest.raises(InputError, match="three or more"):
        fit_similarity(np.zeros((2, 3)), np.zeros((2, 3)))
    with pytest.raises(InputError, match="one line"):
        fit_similarity(np.arange(9.0).reshape(3, 3), np.random.default_rng(0).normal(size=(3, 3)))
