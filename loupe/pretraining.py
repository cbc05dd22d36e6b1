"""What is trained before any trial: the codebook of `loupe.codebook`, on the training views of one capture or several.

Training sees the pixels of training views only: captures that share a picture, one to train and one to test, are
refused. The scores are taken on whole test views, on 8-bit pictures. A view is named capture.view here, since captures
may share names of views.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from loupe.capture_views import CaptureViews
from loupe.codebook import Codebook, CodebookConfig, VqVae, decode_view, encode_view, objective, view_digest
from loupe.errors import InputError
from loupe.images import Pixels, detailed_windows, write_image
from loupe.method import Segment
from loupe.metrics import psnr
from loupe.nets.quantizer import perplexity, rows_of
from loupe.training import Report, fit

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

_CELLS = 1 << 15  # looked at for principal components and for k-means: 16 for each of 2048 codes
_K_MEANS_ROUNDS = 8
_REVIVING = 0.8  # of the quantised segment: a code moved later than that would have no time to settle
_LAST_RATE = 0.02
_MAX_NORM = 1.0  # of the network's gradient; only the first steps come near it
_SAMPLE = 256  # side of the sample pictures, pixels


class CodebookTraining:
    """The training of a `VqVae`, as a `loupe.method.Trainee`.

    The network starts at the principal components of cells of training squares. First comes "plain", without
    quantisation, at whose end the codes are placed by k-means on latents of training squares; then "quantised", where
    equation 3 is minimised and dead codes are revived. With `quantise` off, the quantizer is passed by throughout and
    nothing else differs: the reference that shows what quantisation costs.
    """

    def __init__(self, config: CodebookConfig, pictures: Mapping[str, Pixels], quantise: bool) -> None:
        """`pictures` are the training views, each as likely as any other.

        Raises `InputError` if crops do not consist of whole cells or do not fit into a view.
        """
        self._config = config
        self._quantise = quantise
        self._pictures = list(pictures.values())
        if config.crop % config.network.factor:
            raise InputError(f"codebook: crop {config.crop} is no multiple of factor {config.network.factor}")
        for name, picture in pictures.items():
            if min(picture.shape[:2]) < config.crop:
                raise InputError(f"codebook: crop {config.crop} does not fit into view {name} {picture.shape[:2]}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = VqVae(config.network)
        self.model.to("cuda" if torch.cuda.is_available() else "cpu")
        self.model.start(self._some_squares(torch.Generator().manual_seed(config.seed)))
        self._latents = torch.empty(0)
        self._error = torch.tensor(math.nan)

    def segments(self) -> Sequence[Segment]:
        """ "plain" and "quantised"."""
        return [Segment("plain", self._config.plain_steps), Segment("quantised", self._config.quantised_steps)]

    def optimizers(self, segment: Segment) -> dict[str, torch.optim.Optimizer]:
        """One Adam over the network and the codes, each with its learning rate."""
        codes = [self.model.quantizer.codebook]
        network = [*self.model.encoder.parameters(), *self.model.decoder.parameters()]
        groups = [
            {"params": network, "lr": self._config.learning_rate, "max_norm": _MAX_NORM},
            {"params": codes, "lr": self._config.code_learning_rate},
        ]
        return {"codebook": torch.optim.Adam(groups, betas=(0.9, 0.99), fused=True)}

    def learning_rates(self, segment: Segment, step: int) -> Mapping[str, float]:
        """A warm-up in both segments, and a half cosine down to a fiftieth in the last one."""
        factor = min(1.0, (step + 1) / self._config.warm_up_steps)
        if segment.name == "quantised":
            factor *= _LAST_RATE + (1 - _LAST_RATE) * (1 + math.cos(math.pi * step / segment.steps)) / 2
        return {"codebook": factor}

    def batch(self, segment: Segment, step: int, generator: torch.Generator) -> Float[Tensor, "b 3 crop crop"]:
        """Random squares of random training views, in [0, 1]."""
        return self._squares(self._config.batch, generator)

    def losses(self, batch: Float[Tensor, "b 3 crop crop"], segment: Segment) -> dict[str, dict[str, Tensor]]:
        """The terms of equation 3; without quantisation only the first."""
        made = self.model(batch, quantise=self._quantise and segment.name == "quantised")
        terms = objective(batch, made, self._config.beta)
        self._latents = made.latents.detach()
        self._error = terms["reconstruction"].detach()
        return {"codebook": terms}

    def after_step(self, segment: Segment, step: int) -> bool:
        """Place the codes when the plain segment ends; revive dead ones in the other. False: it is done in place."""
        generator = torch.Generator().manual_seed(self._config.seed * 1_000_003 + step)
        done = step + 1
        if not self._quantise:
            return False
        if segment.name == "plain" and done == segment.steps:
            self._place_codes(generator)
        elif (
            segment.name == "quantised" and done % self._config.revive_every == 0 and done <= _REVIVING * segment.steps
        ):
            self.model.quantizer.revive(rows_of(self._latents).float(), generator)
        return False

    def progress(self) -> Mapping[str, float]:
        """PSNR of the last batch, not clipped."""
        return {"psnr": -10 * math.log10(max(float(self._error), 1e-10))}

    def state(self) -> dict[str, Tensor]:
        """The network, the codes and their uses."""
        return dict(self.model.state_dict())

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave."""
        self.model.load_state_dict(state)

    def _squares(self, count: int, generator: torch.Generator) -> Float[Tensor, "n 3 crop crop"]:
        side = self._config.crop
        squares = []
        for _ in range(count):
            picture = self._pictures[_draw(len(self._pictures), generator)]
            top, left = (_draw(size - side + 1, generator) for size in picture.shape[:2])
            squares.append(picture[top : top + side, left : left + side])
        pixels = torch.from_numpy(np.stack(squares)).to(self.model.quantizer.codebook.device)
        return pixels.permute(0, 3, 1, 2).float() / 255

    def _some_squares(self, generator: torch.Generator) -> Float[Tensor, "n 3 crop crop"]:
        cells = (self._config.crop // self._config.network.factor) ** 2
        return self._squares(math.ceil(_CELLS / cells), generator)

    @torch.no_grad()
    def _place_codes(self, generator: torch.Generator) -> None:
        squares = torch.split(self._some_squares(generator), self._config.batch)
        latents = torch.cat([rows_of(self.model.encode(part)) for part in squares])
        self.model.quantizer.fit_k_means(latents, _K_MEANS_ROUNDS, generator)


def _draw(below: int, generator: torch.Generator) -> int:
    return int(torch.randint(below, (), generator=generator))


@dataclass(frozen=True)
class Pretrained:
    """What pretraining makes.

    Attributes:
        codebook: the trained model.
        scores: codes; perplexity over all test views; dead: codes that no training view uses; psnr: mean over all test
            views, whole; psnr_plain: the same for the network trained without quantisation (None without a reference).
        captures: perplexity, psnr and psnr_plain of each capture alone, and `views`: psnr and psnr_plain of each of its
            test views.
        pictures: crops of the test views, "<capture>.<view>_original", "..._vq" and "..._plain".
    """

    codebook: Codebook
    scores: Mapping[str, float | int | None]
    captures: Mapping[str, Mapping[str, Any]]
    pictures: Mapping[str, Pixels]

    def save(self, folder: Path) -> None:
        """Write the model, `scores.json` and `pictures/` into `folder`, which exists."""
        self.codebook.save(folder)
        content = {**self.scores, "captures": self.captures}
        (folder / "scores.json").write_text(json.dumps(content, indent=1) + "\n", "utf8")
        (folder / "pictures").mkdir(exist_ok=True)
        for name, picture in self.pictures.items():
            write_image(folder / "pictures" / f"{name}.jpg", picture, quality=95)


def pretrain_codebook(
    captures: Mapping[str, CaptureViews], config: CodebookConfig, resume: Path, report: Report
) -> Pretrained:
    """Train a codebook on the training views of all captures together, and measure it on the test views of each.

    With `config.reference` the same network is also trained without quantisation; its values are reported under
    "reference.". Checkpoints lie in `resume`.

    Raises:
        InputError: as for `CodebookTraining` and `loupe.training.fit`; a capture's ratio is no multiple of `factor`; or
            a test view is the same picture as a training view.
    """
    factor, codes = config.network.factor, config.network.codes
    for capture, views in captures.items():
        if (ratio := views.tiles.ratio) % factor:
            raise InputError(f"codebook: tiles of {capture}, of ratio {ratio}, do not divide into cells of {factor}")
    pictures = {
        f"{capture}.{name}": picture
        for capture, views in captures.items()
        for name, picture in views.pictures(views.train).items()
    }
    seen = {name: view_digest(picture) for name, picture in pictures.items()}
    _check_held_out(captures, seen)

    def train(quantise: bool, report: Report) -> VqVae:
        training = CodebookTraining(config, pictures, quantise)
        facts = {"codebook": config.model_dump(), "views": seen}
        fit(
            training,
            seed=config.seed,
            resume=resume / ("vq" if quantise else "plain"),
            configuration=facts,
            report=report,
        )
        return training.model.eval()

    def report_reference(segment: str, done: int, total: int, values: Mapping[str, float]) -> None:
        report(f"reference, {segment}", done, total, {f"reference.{key}": value for key, value in values.items()})

    model = train(True, report)
    plain = train(False, report_reference) if config.reference else None
    measured = {name: _measure(model, plain, views.pictures(views.test)) for name, views in captures.items()}
    scores = {"codes": codes, "dead": codes - _used(model, pictures.values()), **_summary(measured.values())}
    by_capture = {name: {**_summary([one]), "views": one.views} for name, one in measured.items()}
    samples = {f"{name}.{key}": picture for name, one in measured.items() for key, picture in one.samples.items()}
    return Pretrained(Codebook(model, config, seen), scores, by_capture, samples)


def _check_held_out(captures: Mapping[str, CaptureViews], seen: Mapping[str, str]) -> None:
    trained = {digest: name for name, digest in seen.items()}
    for capture, views in captures.items():
        for name, picture in views.pictures(views.test).items():
            if known := trained.get(view_digest(picture)):
                raise InputError(
                    f"codebook: test view {capture}.{name} is the same picture as training view {known}; "
                    "leave one of these captures out, or have their splits agree"
                )


class _Measured(NamedTuple):
    """Of whole views: uses of the codes, PSNR of each view, and crops."""

    uses: Int[Tensor, " codes"]
    views: dict[str, dict[str, float]]
    samples: dict[str, Pixels]


def _measure(model: VqVae, plain: VqVae | None, pictures: Mapping[str, Pixels]) -> _Measured:
    """Over whole views: uses of the codes, PSNR with and without quantisation, and the same crop of each picture."""
    uses = torch.zeros_like(model.quantizer.uses)
    scores: dict[str, dict[str, float]] = {}
    samples: dict[str, Pixels] = {}
    for name, mapped in pictures.items():
        original = np.array(mapped)
        indices = _indices(model, original)
        uses += model.quantizer.count(indices)
        made = {"vq": decode_view(model, model.quantizer.lookup(indices).detach())}
        scores[name] = {"psnr": psnr(made["vq"], original)}
        if plain is not None:
            made["plain"] = decode_view(plain, encode_view(plain, original))
            scores[name]["psnr_plain"] = psnr(made["plain"], original)
        x, y, width, height = detailed_windows(original, _SAMPLE, 1)[0]
        window = slice(y, y + height), slice(x, x + width)
        samples |= {f"{name}_{key}": picture[window] for key, picture in {"original": original, **made}.items()}
    return _Measured(uses, scores, samples)


def _summary(measured: Iterable[_Measured]) -> dict[str, float | None]:
    """Perplexity and the mean PSNR of all views of these captures; every view counts the same."""
    every = list(measured)
    views = [scores for one in every for scores in one.views.values()]
    return {
        "perplexity": perplexity(torch.stack([one.uses for one in every]).sum(0)),
        "psnr": _mean(views, "psnr"),
        "psnr_plain": _mean(views, "psnr_plain") if "psnr_plain" in views[0] else None,
    }


def _used(model: VqVae, pictures: Iterable[Pixels]) -> int:
    """How many codes the pictures use. Stops looking once all are."""
    uses = torch.zeros_like(model.quantizer.uses)
    for picture in pictures:
        uses += model.quantizer.count(_indices(model, picture))
        if uses.all():
            break
    return int((uses > 0).sum())


def _indices(model: VqVae, picture: Pixels) -> Int[Tensor, "1 h w"]:
    latents = encode_view(model, picture)
    return model.quantizer.nearest(rows_of(latents)).reshape(1, *latents.shape[2:])


def _mean(views: Sequence[Mapping[str, float]], key: str) -> float:
    return sum(scores[key] for scores in views) / len(views)
