"""Training patches: squares of a view's low-resolution pixels with their rays, and the same squares at full resolution.

The views are cut into a fixed raster whose squares end at the picture's edge, so that every pixel is as likely as any
other; each square comes once an epoch, in a new order every time (Wang et al., "4K-NeRF", 2022, section 4). A rest too
narrow for the networks that judge a patch belongs to the square before it.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from loupe.images import WHOLE, Pixels
from loupe.rays import Cameras, Rays
from loupe.scene import Level, Scene
from loupe.tiles import LEVELS, Tiles

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor


_NARROWEST = 8  # low-resolution pixels


class Patch(NamedTuple):
    """A patch of h x w low-resolution pixels: its rays, row by row, what the photo shows there, in [0, 1], where it may
    be looked at, and which it is: number of the training view, and rows and columns there at low resolution."""

    rays: Rays
    low: Float[Tensor, "3 h w"]
    full: Float[Tensor, "3 rh rw"]
    low_seen: Bool[Tensor, "1 h w"]
    full_seen: Bool[Tensor, "1 rh rw"]
    view: int
    part: tuple[slice, slice]


class TrainingPatches:
    """All patches of the training views, `side` low-resolution pixels wide and high or cut off by the edge.

    With `subject`, where masks cut, only those that show something of it.
    """

    def __init__(self, scene: Scene, tiles: Tiles, side: int, subject: bool = False) -> None:
        self._ratio = tiles.ratio
        self._pictures = {level: [tiles.image(name, level) for name in scene.train] for level in LEVELS}
        looked_at = tiles.mask if scene.masks == "look" else lambda name, level: None
        self._masks = {level: [looked_at(name, level) for name in scene.train] for level in LEVELS}
        self._cameras = Cameras.stack(scene.cameras(scene.train, "low"))
        self.windows = [
            (view, x, y, width, height)
            for view, picture in enumerate(self._pictures["low"])
            for (y, height), (x, width) in product(*(_stretches(extent, side) for extent in picture.shape[:2]))
        ]
        if subject and scene.masks == "cut":
            masks = [tiles.mask(name, "low") for name in scene.train]
            self.windows = [window for window in self.windows if _is_covered(masks[window[0]], window)]

    def draw(self, step: int, count: int, seed: int, device: torch.device | str) -> list[Patch]:
        """The `count` patches of a step: a function of `seed` and `step` alone."""
        return [self._cut(self.windows[index], device) for index in self.chosen(step, count, seed)]

    def chosen(self, step: int, count: int, seed: int) -> list[int]:
        """Their numbers among `windows`."""
        total = len(self.windows)
        places = range(step * count, (step + 1) * count)
        orders = {
            epoch: np.random.default_rng([seed, epoch]).permutation(total) for epoch in {at // total for at in places}
        }
        return [int(orders[at // total][at % total]) for at in places]

    def _cut(self, window: tuple[int, int, int, int, int], device: torch.device | str) -> Patch:
        view, x, y, width, height = window
        pixel = torch.arange(width * height)
        rays = self._cameras.rays(torch.full_like(pixel, view), x + pixel % width, y + pixel // width)
        low, low_seen = self._at("low", window, 1, device)
        full, full_seen = self._at("full", window, self._ratio, device)
        part = slice(y, y + height), slice(x, x + width)
        return Patch(Rays(*(one.to(device) for one in rays)), low, full, low_seen, full_seen, view, part)

    def _at(
        self, level: Level, window: tuple[int, int, int, int, int], scale: int, device: torch.device | str
    ) -> tuple[Float[Tensor, "3 h w"], Bool[Tensor, "1 h w"]]:
        """The pixels of a window at a level, and where they may be looked at."""
        view, (x, y, width, height) = window[0], (scale * side for side in window[1:])
        part = slice(y, y + height), slice(x, x + width)
        pixels = torch.tensor(self._pictures[level][view][part]).to(device).movedim(-1, 0).float() / 255
        mask = self._masks[level][view]
        seen = np.ones((height, width), bool) if mask is None else mask[part] > WHOLE
        return pixels, torch.from_numpy(seen).to(device)[None]


def _is_covered(mask: Pixels | None, window: tuple[int, int, int, int, int]) -> bool:
    """Whether a mask has something in a window."""
    _, x, y, width, height = window
    return mask is None or bool(mask[y : y + height, x : x + width].any())


def _stretches(extent: int, side: int) -> list[tuple[int, int]]:
    """Start and length of the parts of a picture's side."""
    starts = list(range(0, extent, side))
    if len(starts) > 1 and extent - starts[-1] < _NARROWEST:
        starts.pop()
    return [(start, end - start) for start, end in zip(starts, [*starts[1:], extent], strict=True)]
