"""What every method is to the rest of loupe: the protocols that `loupe.training.fit` (`Trainee`) and the steps talk to.

A method is one object that lives through one phase ("encoder" or "joint") of one trial. It owns its parameters and
knows how to make a batch, its losses and a picture; it does not own the loop, the clock, the disk or the log.

Exact resume rests on two rules. A batch depends on the seed, the segment, the step and saved state alone: all
randomness comes from the `generator` handed in, which the loop seeds anew for every step (as it does torch's own). And
everything that a method changes while it trains is in `state()`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch

from loupe.camera import Camera
from loupe.config import Section, parse_section

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from loupe.cloud import SizedCloud
    from loupe.mesh import Mesh
    from loupe.occupancy import Occupancy
    from loupe.scene import Scene
    from loupe.space import Space
    from loupe.tiles import Tiles

Phase = Literal["encoder", "joint"]
DECODER = "decoder."  # what the names of a decoder's part of a state begin with


@dataclass(frozen=True, eq=False)
class Setting:
    """What a method works on.

    Attributes:
        scene, space, occupancy: products of the steps before; `occupancy` says where in the space something may be.
        tiles: the training pixels; None where nothing is trained (rendering).
        device: where the method keeps its tensors.
        points: the folder of the points that the carving found at each frame of a scene that moves, `<frame>.ply`.
        cloud: the file of coloured points that the carving found on surfaces, at the first frame in a scene that moves;
            None if there is none.
        sources: the training pixels while rendering, for methods that take colours from photos.
        surroundings: the folder of what stands still around the subject of masks; None where nothing was looked for.
    """

    scene: Scene
    space: Space
    occupancy: Occupancy
    tiles: Tiles | None = None
    device: torch.device | str = "cpu"
    points: Path | None = None
    cloud: Path | None = None
    sources: Tiles | None = None
    surroundings: Path | None = None


@dataclass(frozen=True)
class Recipe:
    """The numbers of a trial: sections as YAML gives them, `method` (its name) among them, and `where` they stand."""

    content: Mapping[str, Any]
    where: str = "recipe"

    @property
    def method(self) -> str:
        """The method's name."""
        return str(self.content["method"])

    def section(self, key: str, model: type[Section]) -> Section:
        """Section `key` as a `model`; an `InputError` names the place where it does not fit."""
        return parse_section(model, self.content.get(key), f"{self.where}: {key}")


@dataclass(frozen=True)
class Segment:
    """A stretch of a phase with a fixed set of parameters: `name`, unique in its phase, and its number of `steps`."""

    name: str
    steps: int


class Picture(NamedTuple):
    """A rendered view: `colour` (h, w, 3) in [0, 1], `depth` (h, w) as z-depth in world units, `opacity` (h, w)."""

    colour: Float[Tensor, "h w 3"]
    depth: Float[Tensor, "h w"]
    opacity: Float[Tensor, "h w"]


class Window(NamedTuple):
    """A rectangle of a camera's pixels: top-left pixel (x, y), width and height."""

    x: int
    y: int
    width: int
    height: int


class Trainee(Protocol):
    """Whatever `loupe.training.fit` can train."""

    def segments(self) -> Sequence[Segment]:
        """The stretches that this phase's training runs through, in order."""

    def optimizers(self, segment: Segment) -> dict[str, torch.optim.Optimizer]:
        """A fresh optimiser per parameter group, for a segment's start and whenever `after_step` was True.

        Asked again after a resumption, so it changes nothing. Where a group of an optimiser's parameters carries
        "max_norm", their gradients are clipped together to that norm.
        """

    def learning_rates(self, segment: Segment, step: int) -> Mapping[str, float]:
        """For each group, the factor on its optimiser's initial learning rates at this step of the segment."""

    def batch(self, segment: Segment, step: int, generator: torch.Generator) -> Any:
        """What `losses` needs for this step: a function of saved state, segment, step and generator (on the CPU)."""

    def losses(self, batch: Any, segment: Segment) -> dict[str, dict[str, Tensor]]:
        """{group: {term: weighted scalar}}. A group's sum is differentiated for that group's parameters alone."""

    def after_step(self, segment: Segment, step: int) -> bool:
        """Refresh masks, grow grids ... after the optimisers stepped. True: parameters were replaced."""

    def progress(self) -> Mapping[str, float]:
        """Numbers worth showing beside the losses (PSNR of the last batch, samples a ray, occupied share ...)."""

    def state(self) -> dict[str, Tensor]:
        """Everything that training has changed, by name, including tensors whose shape changes."""

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave, whatever shapes stood here before."""


class Method(Trainee, Protocol):
    """One published method in one phase of one trial.

    `METHODS` in `loupe.methods` holds the classes. Each is called as `Class(phase, recipe, setting)` and raises
    `InputError` where the recipe makes no sense. Its first parameters depend on torch's global seed at that moment.
    """

    def start_from(self, encoder: Mapping[str, Tensor]) -> None:
        """Begin the joint phase with the final `state()` of the encoder phase.

        It may hold a decoder of another trial as well, under names with the prefix `DECODER` as in `state()`. Raises
        `InputError` for one that does not fit.
        """

    def render(self, camera: Camera, time: float, window: Window | None = None) -> Picture:
        """The view of `camera` at `time` (0 to 1; ignored by static methods), or of its `window` alone."""


@runtime_checkable
class MadeOfPoints(Protocol):
    """What a method offers besides if its model is made of points."""

    def clouds(self) -> Iterator[tuple[int, SizedCloud]]:
        """The points at each frame that trained, with its number; colours as from no direction in particular."""


@runtime_checkable
class HasSurface(Protocol):
    """What a method offers besides if its model says where the surface is."""

    def surface(self) -> Mesh:
        """The surface in the space's box, as fine as the method sees fit; raises `InputError` if there is none."""

    def normals(self, camera: Camera) -> Float[Tensor, "h w 3"]:
        """The outward normals of what `camera` sees: of unit length in the world, 0 where there is nothing."""
