"""Training patches: every pixel once an epoch, rays and pixels of the same place, at both levels."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from loupe.method import Setting
from loupe.patches import TrainingPatches
from loupe.rays import camera_rays


@pytest.mark.parametrize("side", [8, 13, 15, 64])
def test_an_epoch_shows_every_pixel_once(room: Setting, side: int) -> None:
    assert room.tiles is not None
    patches = TrainingPatches(room.scene, room.tiles, side)
    total = len(patches.windows)
    seen: Counter[tuple[int, int, int]] = Counter()
    for step in range(total):
        (index,) = patches.chosen(step, 1, seed=3)
        view, x, y, width, height = patches.windows[index]
        seen.update((view, column, row) for column in range(x, x + width) for row in range(y, y + height))
    assert set(seen.values()) == {1}
    assert all(min(width, height) >= 8 for *_, width, height in patches.windows)
    assert len(seen) == len(room.scene.train) * 40 * 32


def test_the_order_changes_with_epoch_and_seed_and_not_with_the_number_a_step(room: Setting) -> None:
    assert room.tiles is not None
    patches = TrainingPatches(room.scene, room.tiles, 16)
    total = len(patches.windows)

    def order(seed: int, first: int) -> list[int]:
        return [patches.chosen(step, 1, seed)[0] for step in range(first, first + total)]

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(1, 0)
    assert order(0, 0) != order(0, total)
    by_threes = [index for step in range(total // 3) for index in patches.chosen(step, 3, 0)]
    assert by_threes == order(0, 0)[: len(by_threes)]


def test_a_patch_is_one_place_at_both_levels(room: Setting) -> None:
    assert room.tiles is not None
    patches = TrainingPatches(room.scene, room.tiles, 13)
    for step in range(12):
        (index,) = patches.chosen(step, 1, 0)
        view, x, y, width, height = patches.windows[index]
        (patch,) = patches.draw(step, 1, 0, "cpu")
        name = room.scene.train[view]
        low = torch.tensor(room.tiles.image(name, "low"))[y : y + height, x : x + width].movedim(-1, 0) / 255
        full = torch.tensor(room.tiles.image(name, "full"))
        ratio = room.tiles.ratio
        full = full[ratio * y : ratio * (y + height), ratio * x : ratio * (x + width)].movedim(-1, 0) / 255
        assert torch.equal(patch.low, low)
        assert torch.equal(patch.full, full)
        every = camera_rays(room.scene.camera(name, "low"))
        directions = every.directions.view(32, 40, 3)[y : y + height, x : x + width].reshape(-1, 3)
        torch.testing.assert_close(patch.rays.directions, directions)
        torch.testing.assert_close(patch.rays.origins, every.origins[: width * height])
