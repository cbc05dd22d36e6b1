"""4K4D: a moving subject as points whose place, size and look are read from a grid over space and time.

Every frame begins with points of its hull. A grid moves them (`positions`), another one (`features`) says how large and
dense they are and weighs the colours that the nearest photos show at them; spherical harmonics add what depends on the
direction. Points are rendered by `loupe.splat`. The encoder phase trains on the low-resolution pixels, the joint phase
goes on at full resolution.

Xu et al., "4K4D: Real-time 4D view synthesis at 4K resolution", 2024 (arXiv 2310.11448); the published code for what
the paper leaves open. Beyond both: a photo counts for a point only where it sees it; a different colour stands behind
subject and picture at every step, so that a mask leaves no hole to hide in; and no plane of the grid has more nodes
along the time than there are frames.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from loupe.camera import Array, Camera
from loupe.cloud import Cloud, SizedCloud
from loupe.config import Config
from loupe.errors import InputError
from loupe.fields.moving_points import Appearance, Moment, PointField, PointsConfig, Source, exactly, mean_spacing
from loupe.frame_cache import FrameCache, nearest
from loupe.images import HALF, Pixels, to_uint8
from loupe.lumigraph import Lumigraph
from loupe.method import DECODER, Phase, Picture, Recipe, Segment, Setting, Window
from loupe.nets.perceptual import features_of_both, perceptual_distance, vgg19_for
from loupe.scene import Level
from loupe.splat import Splatted, render_points, visible
from loupe.surroundings import Surroundings
from loupe.tiles import Tiles

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

_MARGIN = 0.1  # by which the window around a subject is wider and higher
_LEAST = 16  # pixels on a side of the window: VGG19 halves them four times
_LOOKED_THROUGH = 256  # pixels on the long side of the picture that tells what a photo sees of the points


class Weights(Config):
    """Weights of the loss terms: the paper's three, and the mean square of the points' shifts (the published code)."""

    colour: float = Field(default=1.0, gt=0)
    perceptual: float = Field(default=1e-3, ge=0)
    mask: float = Field(default=1e-3, ge=0)
    shift: float = Field(default=0.0, ge=0)


class FitConfig(Config):
    """How one phase trains.

    Attributes:
        steps: of training, one view each.
        size: the longest side of the window of a view that a step looks at, in pixels.
        rate: Adam's learning rate; that of the heads that move and shape points; that of the positions themselves, in
            sides of the box. All fall to a tenth over the phase.
        weights: of the loss terms.
    """

    steps: int = Field(ge=1)
    size: int = Field(default=1024, ge=_LEAST)
    rate: float = Field(default=5e-3, gt=0)
    head_rate: float = Field(default=5e-4, gt=0)
    position_rate: float = Field(default=5e-6, ge=0)
    weights: Weights = Weights()


class Encoder(Config):
    """The recipe's section `encoder`."""

    seed: int = 0
    points: PointsConfig = PointsConfig()
    fit: FitConfig


class Joint(Config):
    """The recipe's section `joint`."""

    seed: int = 0
    fit: FitConfig


class FourK4dBatch(NamedTuple):
    """A window of a view.

    `moment`: which of the frames; `camera` over the window; `picture` (h, w, 3) over black and `mask` (h, w), in
    [0, 1]; the `sources`; `behind` (3,): the colour that stands behind.
    """

    moment: int
    camera: Camera
    picture: Float[Tensor, "h w 3"]
    mask: Float[Tensor, "h w"]
    sources: Sequence[Source]
    behind: Float[Tensor, " 3"]


class FourK4d:
    """4K4D in one phase of one trial: `loupe.method.Method`. `field` exists once it began or took over a state."""

    field: PointField

    def __init__(self, phase: Phase, recipe: Recipe, setting: Setting) -> None:
        """Raises `InputError` where the recipe does not fit, the scene has no masks, or a frame no points or no second
        training view."""
        section = recipe.section("encoder", Encoder)
        self._config = section.points
        self._fit = section.fit if phase == "encoder" else recipe.section("joint", Joint).fit
        self._level: Level = "low" if phase == "encoder" else "full"
        self._phase, self._setting = phase, setting
        scene = setting.scene
        if setting.space.kind != "bounded":
            raise InputError(f"{scene.folder}: 4K4D needs a bounded space; set space.kind")
        # A view without a mask says nothing of where the subject is, but where masks cut: there it is all that shows.
        self._train = [name for name in scene.train if scene.masks == "cut" or scene.view(name).mask]
        if scene.masks == "look" or not any(scene.view(name).mask for name in self._train):
            raise InputError(f"{scene.folder}: 4K4D needs masks of its subject; see ingest.masks and scene.masks")
        self._frames = sorted({scene.view(name).frame for name in self._train})
        self._times = [scene.time(frame) for frame in self._frames]
        self._names = {frame: [n for n in self._train if scene.view(n).frame == frame] for frame in self._frames}
        alone = [frame for frame, names in self._names.items() if len(names) < 2]
        if alone and self._config.images:
            raise InputError(
                f"{scene.folder}: frame {alone[0]} has one training view; 4K4D colours each by others of its moment"
            )
        self._progress: dict[str, Tensor] = {}
        if phase == "encoder" and setting.points:
            self._begin()

    def _begin(self) -> None:
        clouds = [self._carved(frame) for frame in self._frames]
        generator = np.random.default_rng(0)
        spacing = float(np.mean([mean_spacing(cloud) for cloud in clouds]))
        positions = [exactly(cloud, self._config.count, spacing / 4, generator) for cloud in clouds]
        self._take([torch.from_numpy(points).float() for points in positions], spacing)

    def _carved(self, frame: int) -> Array:
        assert self._setting.points is not None
        path = self._setting.points / f"{frame:06d}.ply"
        points = Cloud.load(path).xyz.astype(np.float64)
        if len(points) < 2:
            raise InputError(
                f"{path}: {len(points)} points; 4K4D needs the subject at every frame; see its masks there"
            )
        return points

    def start_from(self, encoder: Mapping[str, Tensor]) -> None:
        """Take over the points of the encoder phase."""
        if any(name.startswith(DECODER) for name in encoder):
            raise InputError("four_k4d has no decoder; the trial's encoder in configs/pipeline.yaml must be no graft")
        self.load_state(encoder)

    def segments(self) -> Sequence[Segment]:
        """One."""
        return [Segment("points" if self._phase == "encoder" else "joint", self._fit.steps)]

    def optimizers(self, segment: Segment) -> dict[str, torch.optim.Optimizer]:
        """One Adam: positions, the heads that move and shape points, and the rest, each at its own rate."""
        heads = [*self.field.shape.parameters(), *(self.field.shift.parameters() if self._config.grid else ())]
        placed = list(self.field.positions)
        apart = {id(parameter) for parameter in (*heads, *placed)}
        rest = [parameter for parameter in self.field.parameters() if id(parameter) not in apart]
        groups: list[dict[str, object]] = [{"params": rest, "lr": self._fit.rate}]
        groups.append({"params": heads, "lr": self._fit.head_rate})
        if self._fit.position_rate:
            groups.append({"params": placed, "lr": self._fit.position_rate * self.field.side})
        return {"points": torch.optim.Adam(groups, betas=(0.9, 0.999), eps=1e-15, fused=True)}

    def learning_rates(self, segment: Segment, step: int) -> Mapping[str, float]:
        """A tenth at the end."""
        return {"points": 0.1 ** (step / segment.steps)}

    def batch(self, segment: Segment, step: int, generator: torch.Generator) -> FourK4dBatch:
        """A training view, as many of its pixels around the subject as a step takes, and photos of the same moment."""
        scene, device = self._setting.scene, self._setting.device
        name = self._train[_draw(len(self._train), generator)]
        frame = scene.view(name).frame
        window = _part(self._subject(name), self._fit.size, generator)
        camera = scene.camera(name, self._level).cropped(*window)
        picture, mask = self._cut(name, window)
        own = float(torch.rand((), generator=generator)) < self._config.own
        others = [other for other in self._nearest(camera, frame) if own or other != name][: self._config.among]
        order = torch.randperm(len(others), generator=generator)[: self._config.sources].sort().values
        sources = [self._source(others[int(place)]) for place in order] if self._config.images else []
        behind = torch.rand(3, generator=generator).to(device)
        return FourK4dBatch(self._frames.index(frame), camera, picture, mask, sources, behind)

    def losses(self, batch: FourK4dBatch, segment: Segment) -> dict[str, dict[str, Tensor]]:
        """The paper's colour, perceptual and mask terms, weighted."""
        weights = self._fit.weights
        moment = self.field.at(batch.moment)
        seen = self._render(moment, batch.camera, batch.sources, self._sights(moment, batch.sources))
        made = seen.colour + (1 - seen.opacity)[..., None] * batch.behind
        true = batch.picture + (1 - batch.mask)[..., None] * batch.behind
        terms = {"colour": weights.colour * (made - true).square().mean()}
        if weights.mask:
            terms["mask"] = weights.mask * (1 - soft_overlap(seen.opacity, batch.mask))
        if weights.perceptual:
            layers = features_of_both(self._vgg, made.movedim(-1, 0)[None], true.movedim(-1, 0)[None])
            terms["perceptual"] = weights.perceptual * perceptual_distance(layers)
        if weights.shift and self._config.grid:
            terms["shift"] = weights.shift * (moment.shift / self.field.side).square().sum(1).mean()
        self._progress = {
            "psnr": -10 * (terms["colour"].detach() / weights.colour).log10(),
            "radius": moment.radius.detach().mean() / self.field.spacing,
        }
        return {"points": terms}

    def after_step(self, segment: Segment, step: int) -> bool:
        """Nothing changes but the parameters."""
        return False

    def progress(self) -> Mapping[str, float]:
        """Of the last batch: PSNR; the points' mean radius in distances between neighbours."""
        return {name: float(value) for name, value in self._progress.items()}

    def state(self) -> dict[str, Tensor]:
        """All parameters."""
        return {name: value.detach() for name, value in self.field.state_dict().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on where `state` was taken."""
        names = sorted((name for name in state if name.startswith("positions.")), key=lambda name: int(name[10:]))
        if len(names) != len(self._frames):
            raise InputError(f"{self._setting.scene.folder}: {len(self._frames)} frames, the model has {len(names)}")
        # Of its own: training changes positions in place.
        self._take([state[name].clone() for name in names], float(state["spacing"]))
        self.field.load_state_dict(dict(state))

    @torch.no_grad()
    def render(self, camera: Camera, time: float, window: Window | None = None) -> Picture:
        """The view of `camera` at the frame nearest to `time`: the subject before its surroundings, as far as they are
        known, and both before the scene's backdrop."""
        index = min(range(len(self._times)), key=lambda place: abs(self._times[place] - time))
        part = camera.cropped(*window) if window else camera
        names = self._nearest(camera, self._frames[index])[: self._config.sources]
        sources = [self._source(name) for name in names] if self._config.images else []
        moment = self.field.at(index)
        seen = self._render(moment, part, sources, self._covered_sights(moment, sources))
        if self._surroundings:
            seen = _before(seen, self._surroundings.seen_from(camera, window))
        backdrop = seen.colour.new_tensor(self._setting.scene.backdrop) / 255
        colour = seen.colour + (1 - seen.opacity)[..., None] * backdrop
        return Picture(colour.clamp(0, 1), seen.depth, seen.opacity)

    @torch.no_grad()
    def cache(self, frame: int) -> FrameCache:
        """A frame that trained, made ready to play; any of its training photos may colour it."""
        config = self._config
        moment, appearance = self._whole(frame)
        eyes = self._eyes(frame)[: len(appearance.rgb)]  # none if the recipe wants no photos
        return FrameCache.of(moment, appearance, eyes, self._middle, config.sources, config.layers)

    @torch.no_grad()
    def clouds(self) -> Iterator[tuple[int, SizedCloud]]:
        """The points of each frame. Colours: the blend of all photos of the frame that see a point, and the mean of the
        harmonics over all directions."""
        for frame in self._frames:
            moment, appearance = self._whole(frame)
            rgb = to_uint8(appearance.seen_from_all_around().cpu().numpy())
            points, radius, density = (part.cpu().numpy() for part in moment[:3])
            yield frame, SizedCloud(Cloud(points, rgb), radius, density)

    def _whole(self, frame: int) -> tuple[Moment, Appearance]:
        """The points of a frame, and what their colours are made of, all its photos among it."""
        moment = self.field.at(self._frames.index(frame))
        sources = [self._source(name) for name in self._names[frame]] if self._config.images else []
        return moment, self.field.appearance(moment, sources, self._covered_sights(moment, sources))

    def _take(self, positions: Sequence[Tensor], spacing: float) -> None:
        self.field = PointField(self._config, self._setting.space, positions, spacing).to(self._setting.device)

    def _render(
        self, moment: Moment, camera: Camera, sources: Sequence[Source], sights: Bool[Tensor, "s n"] | None
    ) -> Splatted:
        eye = torch.tensor(camera.center, dtype=torch.float32, device=self._setting.device)
        colours = self.field.colours(moment, eye, sources, sights)
        return render_points(moment.points, colours, moment.radius, moment.density, camera, self._config.layers)

    def _sights(self, moment: Moment, sources: Sequence[Source]) -> Bool[Tensor, "s n"] | None:
        """Which photos see which points."""
        seen = [_sight(moment, source.camera, self._config.layers) for source in sources]
        return torch.stack(seen) if seen else None

    def _covered_sights(self, moment: Moment, sources: Sequence[Source]) -> Bool[Tensor, "s n"] | None:
        """The same, less the points beyond a photo's mask. Training lets them be black there, and learns that they are
        none of the subject's."""
        sights = self._sights(moment, sources)
        return (
            sights & torch.stack([source.covers(moment.points) for source in sources]) if sights is not None else None
        )

    def _nearest(self, camera: Camera, frame: int) -> list[str]:
        """The training views of a frame, those first that look at the subject most nearly as `camera` does."""
        order = nearest(self._eyes(frame), camera.center, self._middle)
        return [self._names[frame][place] for place in order]

    def _eyes(self, frame: int) -> Array:
        """Where the training views of a frame were taken from, (s, 3)."""
        scene = self._setting.scene
        return np.stack([scene.camera(name, self._level).center for name in self._names[frame]])

    @cached_property
    def _middle(self) -> Array:
        """Of the box, in the world."""
        return self._setting.space.to_world(torch.full((1, 3), 0.5, dtype=torch.float64))[0].numpy()

    def _subject(self, name: str) -> Window:
        """The pixels of a view around its mask."""
        mask = self._mask(name)
        rows, columns = (np.flatnonzero((mask > HALF).any(axis)) for axis in (1, 0))
        if not len(rows):
            return Window(0, 0, mask.shape[1], mask.shape[0])
        more = math.ceil(_MARGIN * (max(np.ptp(rows), np.ptp(columns)) + 1))
        left, width = _stretch(columns, more, mask.shape[1])
        top, height = _stretch(rows, more, mask.shape[0])
        return Window(left, top, width, height)

    def _mask(self, name: str) -> Pixels:
        mask = self._tiles.mask(name, self._level)
        assert mask is not None  # the scene has some
        return mask

    def _cut(self, name: str, window: Window) -> tuple[Tensor, Tensor]:
        """The subject of a view in a window, (h, w, 3) over black, and its mask (h, w), in [0, 1]."""
        x, y, width, height = window
        part, device, scene = (slice(y, y + height), slice(x, x + width)), self._setting.device, self._setting.scene
        mask = torch.tensor(self._mask(name)[part]).to(device).float() / 255
        picture = torch.tensor(self._tiles.image(name, self._level)[part]).to(device).float() / 255
        if scene.masks != "cut":
            return picture * mask[..., None], mask
        backdrop = picture.new_tensor(scene.backdrop) / 255
        return picture - (1 - mask[..., None]) * backdrop, mask

    def _source(self, name: str) -> Source:
        window = self._subject(name)
        picture, mask = self._cut(name, window)
        return Source(picture.movedim(-1, 0), mask, self._setting.scene.camera(name, self._level).cropped(*window))

    @cached_property
    def _tiles(self) -> Tiles:
        tiles = self._setting.tiles or self._setting.sources
        if tiles is None:
            raise InputError("4K4D takes colours from the photos; give it the tiles")
        return tiles

    @cached_property
    def _surroundings(self) -> Lumigraph | None:
        folder = self._setting.surroundings
        return Lumigraph(Surroundings.load(folder), self._setting.scene, self._setting.device) if folder else None

    @cached_property
    def _vgg(self) -> nn.Module:
        return vgg19_for(f"{self._phase}.fit.weights.perceptual").to(self._setting.device)


def soft_overlap(made: Float[Tensor, "h w"], true: Float[Tensor, "h w"]) -> Float[Tensor, ""]:
    """The intersection of two masks with values in [0, 1] over their union: 1 where they are the same and binary."""
    both = (made * true).sum()
    return both / (made + true - made * true).sum().clamp(min=1e-6)


def _before(front: Splatted, back: Picture) -> Splatted:
    """One picture over another, both premultiplied; depth is that of the one that counts for more."""
    left = 1 - front.opacity
    depth = torch.where(front.opacity > left * back.opacity, front.depth, back.depth)
    return Splatted(front.colour + left[..., None] * back.colour, front.opacity + left * back.opacity, depth)


def _sight(moment: Moment, camera: Camera, layers: int) -> Bool[Tensor, " n"]:
    """Which points a photo shows."""
    scale = min(1.0, _LOOKED_THROUGH / max(camera.width, camera.height))
    small = camera.resized(max(1, round(camera.width * scale)), max(1, round(camera.height * scale)))
    return visible(moment.points, moment.radius, moment.density, small, layers)


def _draw(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))


def _stretch(occupied: NDArray[np.intp], more: int, size: int) -> tuple[int, int]:
    """Around places on a line of `size` pixels, with so many more on both sides: the first pixel, and how many."""
    first, end = max(0, int(occupied[0]) - more), min(size, int(occupied[-1]) + 1 + more)
    count = max(end - first, min(_LEAST, size))
    return min(max(0, (first + end - count) // 2), size - count), count


def _part(window: Window, size: int, generator: torch.Generator) -> Window:
    """A window within another one, anywhere, at most so large."""
    width, height = min(window.width, size), min(window.height, size)
    x = window.x + _draw(window.width - width + 1, generator)
    y = window.y + _draw(window.height - height + 1, generator)
    return Window(x, y, width, height)
