"""Random training pixels with their rays: the batch of every method that learns from single rays."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from loupe.rays import Cameras, Rays
from loupe.scene import Level, Scene
from loupe.tiles import Tiles

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


class PixelBatch(NamedTuple):
    """Rays and the photos' colours (n, 3) in [0, 1]."""

    rays: Rays
    colours: Float[Tensor, "n 3"]


class TrainingPixels:
    """All pixels of the training views at one level."""

    def __init__(self, scene: Scene, tiles: Tiles, level: Level) -> None:
        self._images = [tiles.image(name, level) for name in scene.train]
        self._cameras = Cameras.stack(scene.cameras(scene.train, level))
        sizes = [image.shape[0] * image.shape[1] for image in self._images]
        self._start = torch.tensor([0, *np.cumsum(sizes)])
        self._width = torch.tensor([image.shape[1] for image in self._images])
        self._pixels = tiles.pixels(level)
        self._first = torch.tensor([tiles.first_pixel(name, level) for name in scene.train])

    @property
    def count(self) -> int:
        """How many pixels there are."""
        return int(self._start[-1])

    def draw(self, count: int, generator: torch.Generator, device: torch.device | str) -> PixelBatch:
        """`count` pixels, every one as likely as any other, with replacement."""
        return self.at(torch.randint(self.count, (count,), generator=generator), device)

    def at(self, pixel: Tensor, device: torch.device | str) -> PixelBatch:
        """The pixels (n,) counted through all views, row by row."""
        view = torch.searchsorted(self._start, pixel, right=True) - 1
        within, width = pixel - self._start[view], self._width[view]
        x, y = within % width, within // width
        rays = self._cameras.rays(view, x, y)
        colours = torch.from_numpy(self._pixels[(self._first[view] + within).numpy()])
        return PixelBatch(Rays(*(part.to(device) for part in rays)), colours.to(device).float() / 255)

    def mean_colour(self) -> Float[Tensor, " 3"]:
        """The mean of every eighth row's pixels, in [0, 1]."""
        return torch.from_numpy(np.mean([image[::8].mean((0, 1)) for image in self._images], 0) / 255).float()
