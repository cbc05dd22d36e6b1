"""How close a rendered picture is to the true one, at full resolution, on the 8-bit pixels that are on disk.

Pictures are uint8 (h, w, 3) RGB of one size. Anything else is an error: no score here resizes, rescales or crops.

Conventions, because each of these scores exists in several forms:

- PSNR over all pixels and channels together.
- SSIM per RGB channel, then the mean, over the windows that lie wholly inside the picture; anti-correlated windows are
  not clamped to zero. So it was published (Wang et al. 2004), and so DVGO, mip-NeRF and 4K-NeRF report it. Clamped, or
  on the luma alone, it comes out higher (clamped by .02 between misaligned photos of leaves).
- LPIPS version 0.1 with the learnt linear weights, inputs scaled to [-1, 1].
- NIQE by pyiqa, on the rounded luma of the whole picture, with the pristine model of its authors' release.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from loupe.errors import InputError
from loupe.images import Pixels

SSIM_SIDE = 11  # of its window: the least side of a picture
_SSIM_ROWS = 256  # rows of a strip: 12 megapixels then take less than 0.5 GB
_NIQE_SIDE = 96
LPIPS_SIDE = 64  # the least side of a picture
_LPIPS_STRIDES = {"alex": (4, 8, 16, 16, 16), "vgg": (1, 2, 4, 8, 16)}
_LPIPS_HALO = 112  # at least the receptive radius of the deepest layer (98 pixels), and a multiple of its stride


def psnr(rendered: Pixels, true: Pixels) -> float:
    """Peak signal-to-noise ratio in dB; infinite for equal pictures. Raises `InputError` unless both are alike."""
    _check_alike(rendered, true)
    total = sum(float(cv2.norm(a, b, cv2.NORM_L2SQR)) for a, b in zip(rendered, true, strict=True))
    return 10 * math.log10(255**2 * true.size / total) if total else math.inf


def ssim(rendered: Pixels, true: Pixels) -> float:
    """Structural similarity, at most 1 (Wang et al. 2004, equation 13: Gaussian window of 11 pixels, sigma 1.5).

    Raises `InputError` unless both are alike and at least 11 pixels wide and high.
    """
    _check_alike(rendered, true)
    rows, columns = (side - SSIM_SIDE + 1 for side in true.shape[:2])
    if rows < 1 or columns < 1:
        raise InputError(f"SSIM needs pictures of at least 11x11 pixels, not {_size(true)}")
    total = 0.0
    for top in range(0, rows, _SSIM_ROWS):
        strip = slice(top, min(top + _SSIM_ROWS, rows) + SSIM_SIDE - 1)
        total += float(_ssim_map(rendered[strip].astype(np.float32), true[strip].astype(np.float32)).sum(dtype=float))
    windows: int = rows * columns * 3
    return total / windows


def _ssim_map(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    kernel = cv2.getGaussianKernel(SSIM_SIDE, 1.5, cv2.CV_32F)
    edge = SSIM_SIDE // 2

    def blur(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(cv2.sepFilter2D(values, -1, kernel, kernel)[edge:-edge, edge:-edge], np.float32)

    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_a, mean_b = blur(a), blur(b)
    variances = blur(a * a + b * b) - mean_a**2 - mean_b**2
    covariance = blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return np.asarray(luminance * (2 * covariance + c2) / (variances + c2), np.float32)


def load_niqe(path: Path) -> torch.nn.Module:
    """pyiqa's NIQE with the pristine model in a file (MATLAB's `mu_prisparam` and `cov_prisparam`).

    Raises `InputError` for any other content, among it the other models that circulate: they give other scores.
    """
    from pyiqa.archs.niqe_arch import NIQE

    try:
        model: torch.nn.Module = NIQE(pretrained_model_path=str(path))
        mean = model.mu_pris_param
    except Exception as error:  # the reader raises whatever the broken file makes it raise
        raise InputError(f"{path}: not NIQE's pristine model ({error}); see weights/README.md") from None
    # The released model is told by its numbers: the same ones are stored in files that differ in their headers.
    if not isinstance(mean, torch.Tensor) or (len(mean), round(float(mean.sum()), 4)) != (36, 17.3288):
        raise InputError(f"{path}: not the pristine model of NIQE's authors; see weights/README.md")
    return model


def niqe(picture: Pixels, model: torch.nn.Module) -> float:
    """Natural image quality evaluator, lower is better; it sees no true picture (Mittal, Soundararajan, Bovik 2013).

    `model` is from `load_niqe`; 12 megapixels take 6 GB. NaN where there are fewer than two blocks of 96x96 pixels with
    texture. Raises `InputError` if `picture` is not uint8 (h, w, 3).
    """
    _check_pixels(picture, "the picture")
    height, width = picture.shape[:2]
    if (height // _NIQE_SIDE) * (width // _NIQE_SIDE) < 2:
        return math.nan
    try:
        with torch.no_grad():
            return float(model(torch.from_numpy(picture).permute(2, 0, 1)[None].double() / 255))
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # blocks without texture have no shape to fit
        return math.nan


def load_lpips(net: Literal["alex", "vgg"], backbone: Path) -> torch.nn.Module:
    """The LPIPS model over torchvision's ImageNet backbone stored at `backbone` (Zhang et al. 2018).

    Raises `InputError` if the file is not exactly that network.
    """
    import lpips

    # With its backbone's weights, `lpips` would fetch them from the network. Those drawn here are overwritten below.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it asks torchvision for the model in an old-fashioned way
        model: torch.nn.Module = lpips.LPIPS(net=net, pnet_rand=True, verbose=False)
    features: Any = model.net
    try:
        stored = torch.load(backbone, map_location="cpu", weights_only=True)
        # "slice2.5.weight" here is "features.5.weight" there
        features.load_state_dict({name: stored["features." + name.split(".", 1)[1]] for name in features.state_dict()})
    except Exception as error:  # torch.load raises whatever the broken file makes it raise
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{backbone}: not the weights of {net} ({line}); see weights/README.md") from None
    return model.requires_grad_(False).to("cuda" if torch.cuda.is_available() else "cpu")


def lpips_distance(rendered: Pixels, true: Pixels, model: torch.nn.Module, tile: int = 768) -> float:
    """Learned perceptual distance, lower is better, the same for every `tile` side (a multiple of 16).

    Tiles overlap by the network's receptive radius and each feature counts once, so the value is that of the whole
    picture, in the memory of a tile. Raises `InputError` unless both are alike and at least 64 pixels a side.
    """
    _check_alike(rendered, true)
    if min(true.shape[:2]) < LPIPS_SIDE:
        raise InputError(f"LPIPS needs pictures of at least 64x64 pixels, not {_size(true)}")
    net: Any = model
    strides = _LPIPS_STRIDES[net.pnet_type]
    sums, counts = np.zeros(len(strides)), np.zeros(len(strides))
    height, width = true.shape[:2]
    for rows, columns in _tiles(height, width, tile):
        maps = _lpips_maps(net, rendered[rows.window, columns.window], true[rows.window, columns.window])
        for layer, (stride, values) in enumerate(zip(strides, maps, strict=True)):
            core = values[rows.core(stride), columns.core(stride)]
            sums[layer] += float(core.sum(dtype=torch.float64))
            counts[layer] += core.numel()
    return float((sums / counts).sum())


class _Span(NamedTuple):
    """A tile along one axis: pixels [start, stop) of a picture's `size`, read with a halo."""

    start: int
    stop: int
    size: int

    @property
    def window(self) -> slice:
        return slice(max(self.start - _LPIPS_HALO, 0), min(self.stop + _LPIPS_HALO, self.size))

    def core(self, stride: int) -> slice:
        """Which features of the window, `stride` pixels apart, are the tile's own."""
        first = self.window.start
        last = None if self.stop == self.size else (self.stop - first) // stride
        return slice((self.start - first) // stride, last)


def _tiles(height: int, width: int, tile: int) -> Iterator[tuple[_Span, _Span]]:
    if tile < 16 or tile % 16:
        raise ValueError(f"tile {tile} is no multiple of 16")
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            yield _Span(top, min(top + tile, height), height), _Span(left, min(left + tile, width), width)


def _lpips_maps(model: Any, rendered: Pixels, true: Pixels) -> list[torch.Tensor]:
    """Each layer's weighted squared feature difference, (h_k, w_k)."""
    from lpips import normalize_tensor

    device = next(model.parameters()).device
    pair = torch.from_numpy(np.stack([rendered, true])).to(device).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad(), torch.backends.cudnn.flags(allow_tf32=False):
        layers = [normalize_tensor(features) for features in model.net(model.scaling_layer(pair))]
        return [
            linear((features[:1] - features[1:]) ** 2)[0, 0]
            for linear, features in zip(model.lins, layers, strict=True)
        ]


def _check_alike(rendered: Pixels, true: Pixels) -> None:
    _check_pixels(rendered, "the rendered picture")
    _check_pixels(true, "the true picture")
    if rendered.shape != true.shape:
        raise InputError(f"rendered {_size(rendered)}, true {_size(true)}: only pictures of one size can be compared")


def _check_pixels(picture: Pixels, what: str) -> None:
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise InputError(f"{what} is {picture.dtype} {picture.shape}, not 8-bit RGB (h, w, 3)")


def _size(picture: Pixels) -> str:
    return f"{picture.shape[1]}x{picture.shape[0]}"
