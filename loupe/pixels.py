"""Random training pixels with their rays: the batch of every method that learns from single rays."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from loupe.errors import InputError
from loupe.images import WHOLE, Pixels
from loupe.rays import Cameras, Rays
from loupe.scene import Level, Scene
from loupe.tiles import Tiles

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


class PixelBatch(NamedTuple):
    """Rays and the photos' colours (n, 3) in [0, 1]; where masks cut, how much of each pixel is `covered`, 0 to 1, and
    not the backdrop."""

    rays: Rays
    colours: Float[Tensor, "n 3"]
    covered: Float[Tensor, " n"] | None = None

    def over(self, colours: Float[Tensor, "n 3"], backdrop: Float[Tensor, " 3"]) -> Float[Tensor, "n 3"]:
        """The photos' colours with others in the backdrop's place."""
        if self.covered is None:
            return self.colours
        return self.colours + (1 - self.covered)[:, None] * (colours - backdrop)


class TrainingPixels:
    """All pixels of the training views at one level, less those where masks say that they are not to be looked at."""

    def __init__(self, scene: Scene, tiles: Tiles, level: Level) -> None:
        """Raises `InputError` if the masks let no pixel be looked at."""
        self._images = [tiles.image(name, level) for name in scene.train]
        masks = [mask for name in scene.train if (mask := tiles.mask(name, level)) is not None]
        self._use = scene.masks if masks else "carve"
        # Of those drawn, how many may be looked at.
        self._share = _seen_share(masks) if self._use == "look" else 1.0
        if not self._share:
            raise InputError(f"{scene.folder}: the masks of the training views let nothing be looked at")
        self._cameras = Cameras.stack(scene.cameras(scene.train, level))
        sizes = [image.shape[0] * image.shape[1] for image in self._images]
        self._start = torch.tensor([0, *np.cumsum(sizes)])
        self._width = torch.tensor([image.shape[1] for image in self._images])
        self._pixels, self._masks = tiles.pixels(level), tiles.masks(level)
        self._first = torch.tensor([tiles.first_pixel(name, level) for name in scene.train])

    @property
    def count(self) -> int:
        """How many pixels there are."""
        return int(self._start[-1])

    def draw(self, count: int, generator: torch.Generator, device: torch.device | str) -> PixelBatch:
        """`count` pixels, every one as likely as any other, with replacement; about as many where masks hide some."""
        pixel = torch.randint(self.count, (math.ceil(count / self._share),), generator=generator)
        if self._masks is not None and self._use == "look":
            pixel = pixel[torch.from_numpy(_seen(self._masks[self._place(pixel).stored.numpy()]))]
        return self.at(pixel, device)

    def at(self, pixel: Tensor, device: torch.device | str) -> PixelBatch:
        """The pixels (n,) counted through all views, row by row."""
        place = self._place(pixel)
        rays = Rays(*(part.to(device) for part in self._cameras.rays(place.view, place.x, place.y)))
        colours = torch.from_numpy(self._pixels[place.stored.numpy()]).to(device).float() / 255
        if self._masks is None or self._use != "cut":
            return PixelBatch(rays, colours)
        covered = torch.from_numpy(self._masks[place.stored.numpy()]).to(device).float() / 255
        return PixelBatch(rays, colours, covered)

    def mean_colour(self) -> Float[Tensor, " 3"]:
        """The mean of every eighth row's pixels, in [0, 1]."""
        return torch.from_numpy(np.mean([image[::8].mean((0, 1)) for image in self._images], 0) / 255).float()

    def _place(self, pixel: Tensor) -> _Place:
        view = torch.searchsorted(self._start, pixel, right=True) - 1
        within, width = pixel - self._start[view], self._width[view]
        return _Place(view, within % width, within // width, self._first[view] + within)


class _Place(NamedTuple):
    """View, column and row of pixels, and where they are stored."""

    view: Tensor
    x: Tensor
    y: Tensor
    stored: Tensor


def _seen_share(masks: Sequence[Pixels]) -> float:
    """By some 256 rows of each."""
    counts = [(_seen(rows).sum(), rows.size) for mask in masks for rows in [mask[:: max(1, len(mask) // 256)]]]
    seen, total = np.sum(counts, 0)
    return float(seen / total)


def _seen(mask: Pixels) -> NDArray[np.bool_]:
    return mask > WHOLE
