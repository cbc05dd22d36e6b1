"""A frame of points made ready to play: its pictures are made without a network, a grid or a photo.

What the networks say of a frame's points does not hang on who looks (Xu et al., "4K4D: Real-time 4D view synthesis at
4K resolution", 2024, "Inference"): where they are, how large and dense, their harmonics, and of each photo its colours
there and how much these count. All of it is kept, in half precision. For a camera remain the choice of the nearest
photos, their blend and the harmonics, by the same formula as while training (`Appearance`), and the point renderer.

Positions are 16-bit whole numbers between the bounds of the frame's points: of a subject of two metres they are at most
0.015 mm off, wherever it stands. Half floats would be up to 0.25 mm off counted from its middle, and 2 mm counted from
an origin five metres away.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from loupe.camera import Array, Camera
from loupe.errors import InputError
from loupe.fields.moving_points import Appearance, Moment
from loupe.splat import Splatted, render_points

if TYPE_CHECKING:
    from jaxtyping import Float, Float16, Float64, Int16
    from torch import Tensor

_FORMAT = 1
_STEPS = 32767  # from the middle of the bounds to either side


@dataclass(frozen=True, eq=False)
class FrameCache:
    """One frame; everything but `eyes` and `target` on one device.

    Attributes:
        middle, reach: of the points' bounds: middle and half the sides, in world units (3,).
        places: in steps of `reach` / 32767 from the middle (n, 3).
        spacing: the unit of `radius`, in world units, without which a small world's would be beyond half precision.
        radius, density: of the points (n,).
        appearance: what their colours are made of, in half precision.
        eyes, target: the photos are told apart by where their cameras stand (s, 3), as seen from the target (3,).
        sources: how many photos colour a picture.
        layers: the most points that count in a pixel.
    """

    middle: Float[Tensor, " 3"]
    reach: Float[Tensor, " 3"]
    places: Int16[Tensor, "n 3"]
    spacing: float
    radius: Float16[Tensor, " n"]
    density: Float16[Tensor, " n"]
    appearance: Appearance
    eyes: Float64[Tensor, "s 3"]
    target: Float64[Tensor, " 3"]
    sources: int
    layers: int

    @classmethod
    def of(
        cls, moment: Moment, appearance: Appearance, eyes: Array, target: Array, sources: int, layers: int
    ) -> FrameCache:
        """A moment's points as their colours are made of the photos taken from `eyes` (s, 3)."""
        low, high = moment.points.amin(0), moment.points.amax(0)
        middle, reach = (low + high) / 2, ((high - low) / 2).clamp(min=1e-12)
        places = ((moment.points - middle) / reach * _STEPS).round().clamp(-_STEPS, _STEPS)
        spacing = float(moment.radius.mean())
        return cls(
            middle,
            reach,
            places.to(torch.int16),
            spacing,
            (moment.radius / spacing).half(),
            moment.density.half(),
            appearance.to(torch.float16),
            torch.from_numpy(eyes),
            torch.from_numpy(target),
            sources,
            layers,
        )

    @property
    def points(self) -> Float[Tensor, "n 3"]:
        """The positions in the world."""
        return self.middle + self.places.float() * (self.reach / _STEPS)

    @torch.no_grad()
    def render(self, camera: Camera) -> Splatted:
        """What `camera` sees of the frame."""
        chosen = nearest(self.eyes.numpy(), camera.center, self.target.numpy())[: self.sources]
        points, radius = self.points, self.spacing * self.radius.float()
        eye = torch.from_numpy(camera.center).to(points)
        colours = self.appearance.of_photos(chosen).to(torch.float32).seen_from(points, eye)
        return render_points(points, colours, radius, self.density.float(), camera, self.layers)

    def save(self, path: Path) -> None:
        """Write as safetensors."""
        numbers = {"spacing": self.spacing, "limit": self.appearance.limit}
        counts = {"sources": self.sources, "layers": self.layers}
        facts = json.dumps({"format": _FORMAT, **numbers, **counts})
        save_file({name: tensor.contiguous() for name, tensor in self._tensors().items()}, path, {"facts": facts})

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> FrameCache:
        """Read what `save` wrote; raises `InputError` if it is missing or damaged."""
        try:
            with safe_open(path, "pt") as file:
                facts = json.loads(file.metadata()["facts"])
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if facts.pop("format") != _FORMAT:
                raise ValueError("of another format")
            eyes = {name: found.pop(name) for name in ("eyes", "target")}
            found = {name: tensor.to(device) for name, tensor in found.items()}
            looks = {name: found.pop(name) for name in ("coefficients", "rgb", "logit", "sight")}
            return cls(**found, **eyes, appearance=Appearance(**looks, limit=facts.pop("limit")), **facts)
        except FileNotFoundError:
            raise InputError(f"{path}: no such file; write it from the trained model") from None
        except (SafetensorError, KeyError, ValueError, TypeError) as error:
            raise InputError(f"{path}: not a frame to play ({error}); write it again from the trained model") from None

    def _tensors(self) -> dict[str, Tensor]:
        own = {name: getattr(self, name) for name in ("middle", "reach", "places", "radius", "density")}
        looks = {name: getattr(self.appearance, name) for name in ("coefficients", "rgb", "logit", "sight")}
        return own | looks | {"eyes": self.eyes, "target": self.target}


def nearest(eyes: Array, eye: Array, target: Array) -> list[int]:
    """Which of `eyes` (s, 3) look at `target` most nearly as `eye` does: their places in the list, those first."""
    lines = np.concatenate([eyes, eye[None]]) - target
    lines /= np.linalg.norm(lines, axis=1, keepdims=True)
    found: list[int] = np.argsort(-(lines[:-1] @ lines[-1]), kind="stable").tolist()
    return found
