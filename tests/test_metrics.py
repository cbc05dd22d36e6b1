"""Scores against their definitions, against pyiqa's, and the tiled LPIPS against the whole picture."""

from __future__ import annotations

import math
import os
import socket
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from loupe import metrics, weights
from loupe.errors import InputError
from loupe.images import Pixels


def textured(height: int, width: int, seed: int = 0) -> Pixels:
    """Smooth random structure with fine noise on it: no flat parts."""
    random = np.random.default_rng(seed)
    coarse = cv2.resize(random.uniform(40, 215, (7, 9, 3)), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(coarse + random.normal(0, 12, (height, width, 3)), 0, 255).astype(np.uint8)


def noisy(picture: Pixels, sigma: float, seed: int = 1) -> Pixels:
    noise = np.random.default_rng(seed).normal(0, sigma, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def test_psnr_of_a_known_error() -> None:
    true = np.full((4, 5, 3), 100, np.uint8)
    rendered = true.copy()
    rendered[0, 0, 0] = 110
    assert metrics.psnr(rendered, true) == pytest.approx(10 * math.log10(255**2 * 60 / 100))
    assert metrics.psnr(true, true) == math.inf


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=25, deadline=None)
def test_psnr_is_that_of_pictures_in_0_to_1(seed: int, height: int, width: int) -> None:
    a, b = np.random.default_rng(seed).integers(0, 256, (2, height, width, 3), np.uint8)
    error = np.mean((a / 255.0 - b / 255.0) ** 2)
    assert metrics.psnr(a, b) == pytest.approx(-10 * math.log10(error) if error else math.inf)


def naive_ssim(a: Pixels, b: Pixels) -> float:
    line = np.exp(-0.5 * ((np.arange(11) - 5) / 1.5) ** 2)
    window = np.outer(line, line) / line.sum() ** 2
    values = []
    for channel in range(3):
        for y in range(a.shape[0] - 10):
            for x in range(a.shape[1] - 10):
                p, q = (image[y : y + 11, x : x + 11, channel] / 255.0 for image in (a, b))
                p_mean, q_mean = (window * p).sum(), (window * q).sum()
                spread = (window * (p - p_mean) ** 2).sum() + (window * (q - q_mean) ** 2).sum()
                together = (window * (p - p_mean) * (q - q_mean)).sum()
                light = (2 * p_mean * q_mean + 1e-4) / (p_mean**2 + q_mean**2 + 1e-4)
                values.append(light * (2 * together + 9e-4) / (spread + 9e-4))
    return float(np.mean(values))


@pytest.mark.parametrize("size", [(11, 11), (13, 17), (24, 19)])
def test_ssim_is_its_definition_even_between_unrelated_pictures(size: tuple[int, int]) -> None:
    a, b = textured(*size), textured(*size, seed=5)
    assert metrics.ssim(a, b) == pytest.approx(naive_ssim(a, b), abs=1e-5)


def test_ssim_in_strips_is_ssim_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    a = textured(90, 70)
    b = noisy(a, 20)
    at_once = metrics.ssim(a, b)
    for rows in (1, 7, 80):
        monkeypatch.setattr(metrics, "_SSIM_ROWS", rows)
        assert metrics.ssim(a, b) == pytest.approx(at_once, abs=1e-6)


def test_ssim_agrees_with_pyiqa_where_nothing_is_clamped() -> None:
    from pyiqa.archs.ssim_arch import SSIM

    a = textured(120, 150)
    b = cv2.GaussianBlur(noisy(a, 6), (3, 3), 0.6)
    theirs = SSIM(test_y_channel=False)(*(_batch(picture) for picture in (b, a))).item()
    assert metrics.ssim(b, a) == pytest.approx(theirs, abs=2e-4)


def _batch(picture: Pixels) -> torch.Tensor:
    return torch.from_numpy(picture).permute(2, 0, 1)[None] / 255


def test_pictures_that_differ_in_size_or_range_are_refused() -> None:
    true = textured(32, 40)
    for score in (metrics.psnr, metrics.ssim):
        with pytest.raises(InputError, match="rendered 39x32, true 40x32"):
            score(true[:, :-1], true)
        with pytest.raises(InputError, match="float64"):
            score(true / 255.0, true)
        with pytest.raises(InputError, match="not 8-bit RGB"):
            score(true[..., 0], true[..., 0])
    with pytest.raises(InputError, match="11x11"):
        metrics.ssim(true[:10], true[:10])


def test_niqe_takes_8_bit_rgb_alone(tmp_path: Path) -> None:
    model, picture = pristine(tmp_path), textured(96, 200)
    for other in (picture / 255.0, picture[..., 0], picture.astype(np.uint16)):
        with pytest.raises(InputError, match=r"the picture is .*, not 8-bit RGB"):
            metrics.niqe(other, model)


def pristine(folder: Path) -> torch.nn.Module:
    """NIQE with a made-up model of the right shape, past the check that it is the released one."""
    from scipy.io import savemat

    random = np.random.default_rng(3)
    root = random.normal(size=(36, 36)) * 0.1
    mean = random.uniform(0, 1, 36)
    mean *= 17.3288 / mean.sum()
    savemat(folder / "model.mat", {"mu_prisparam": mean[None], "cov_prisparam": root @ root.T + 0.01 * np.eye(36)})
    return metrics.load_niqe(folder / "model.mat")


def test_niqe_sees_blur_and_counts_its_blocks(tmp_path: Path) -> None:
    model = pristine(tmp_path)
    picture = textured(200, 310)
    # What lies beyond the last whole block of 96 pixels has no say.
    assert metrics.niqe(picture, model) == metrics.niqe(picture[:192, :288], model)
    assert metrics.niqe(picture, model) != pytest.approx(metrics.niqe(cv2.blur(picture, (3, 3)), model), rel=1e-2)


def test_niqe_is_undefined_without_two_textured_blocks(tmp_path: Path) -> None:
    model = pristine(tmp_path)
    assert math.isnan(metrics.niqe(textured(95, 400), model))
    assert math.isnan(metrics.niqe(textured(96, 100), model))
    assert math.isnan(metrics.niqe(np.full((200, 300, 3), 128, np.uint8), model))


def test_another_niqe_model_is_refused(tmp_path: Path) -> None:
    from scipy.io import savemat

    path = tmp_path / "niqe_modelparameters.mat"
    savemat(path, {"mu_prisparam": np.ones((1, 36)), "cov_prisparam": np.eye(36)})
    with pytest.raises(InputError, match="not the pristine model"):
        metrics.load_niqe(path)
    path.write_bytes(b"no matrix")
    with pytest.raises(InputError, match=r"weights/README\.md"):
        metrics.load_niqe(path)


@pytest.fixture(scope="module", params=["alex", "vgg"])
def random_network(request: pytest.FixtureRequest) -> torch.nn.Module:
    """The real architecture with seeded random weights: enough to compare two ways of computing, and not LPIPS."""
    import lpips

    torch.manual_seed(0)
    return lpips.LPIPS(net=request.param, pnet_rand=True, verbose=False).requires_grad_(False)


@pytest.mark.parametrize(("size", "tile"), [((75, 301), 144), ((293, 70), 96), ((66, 77), 768)])
def test_tiles_give_the_distance_of_the_whole_picture(
    random_network: torch.nn.Module, size: tuple[int, int], tile: int
) -> None:
    a = textured(*size)
    b = noisy(a, 30)
    whole = random_network(*(_batch(picture) * 2 - 1 for picture in (a, b))).item()
    assert metrics.lpips_distance(a, b, random_network, tile) == pytest.approx(whole, rel=2e-5)
    assert metrics.lpips_distance(a[:64, :64], a[:64, :64], random_network) == 0


def test_lpips_of_pictures_that_differ_in_size_or_range_is_refused(random_network: torch.nn.Module) -> None:
    true = textured(70, 80)
    for rendered, other, message in (
        (true[:, :-1], true, "rendered 79x70, true 80x70"),
        (true[:35, :40], true, "rendered 40x35, true 80x70"),
        (true / 255.0, true, "the rendered picture is float64"),
        (true, true.astype(np.float32), "the true picture is float32"),
        (true[:63], true[:63], "at least 64x64 pixels, not 80x63"),
    ):
        with pytest.raises(InputError, match=message):
            metrics.lpips_distance(rendered, other, random_network)


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_lpips_fetches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, net: Literal["alex", "vgg"]) -> None:
    """Neither the backbone, which is missing here, nor anything before it."""
    asked: list[object] = []
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *arguments, **options: asked.append(arguments))
    monkeypatch.setattr(socket.socket, "connect", lambda *arguments: asked.append(arguments))
    with pytest.raises(InputError, match=r"none\.pth: not the weights of"):
        metrics.load_lpips(net, tmp_path / "none.pth")
    assert asked == []


def test_a_backbone_is_loaded_whole_or_refused(tmp_path: Path) -> None:
    from torchvision.models import alexnet

    torch.manual_seed(4)
    network, path = alexnet(weights=None), tmp_path / "backbone.pth"
    # torchvision's files are in the format from before zip archives
    torch.save(network.state_dict(), path, _use_new_zipfile_serialization=False)
    model = metrics.load_lpips("alex", path)
    picture = _batch(textured(80, 80))
    expected = network.features[:2](picture)  # the first slice of LPIPS: convolution and ReLU
    torch.testing.assert_close(model.net(picture.to(next(model.parameters()).device))[0].cpu(), expected)

    partial = {name: value for name, value in network.state_dict().items() if not name.startswith("features.10")}
    torch.save(partial, path)
    with pytest.raises(InputError, match=r"features\.10"):
        metrics.load_lpips("alex", path)
    path.write_bytes(b"broken")
    with pytest.raises(InputError, match="not the weights of alex"):
        metrics.load_lpips("alex", path)


class Malicious:
    """Pickled, it is a call that makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("as_zip", [True, False])
def test_weights_that_would_run_a_program_are_refused_and_run_nothing(tmp_path: Path, as_zip: bool) -> None:
    path, traces = tmp_path / "backbone.pth", tmp_path / "traces"
    torch.save({"features.0.weight": Malicious(traces)}, path, _use_new_zipfile_serialization=as_zip)
    with pytest.raises(InputError, match=f"{path}: not the weights of alex"):
        metrics.load_lpips("alex", path)
    assert not traces.exists()
    torch.load(path, weights_only=False)
    assert traces.exists(), "the file was harmless"


def test_weights_are_found_and_their_digest_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    assert weights.find_weights(weights.ALEXNET, tmp_path) is None
    cached = tmp_path / "cache" / "pyiqa" / weights.NIQE.name
    cached.parent.mkdir(parents=True)
    cached.touch()
    assert weights.find_weights(weights.NIQE, tmp_path) == cached
    (tmp_path / weights.ALEXNET.name).write_bytes(b"random numbers")
    with pytest.raises(InputError, match="expected 7be5be79; download it again"):
        weights.find_weights(weights.ALEXNET, tmp_path)


@pytest.mark.real
@pytest.mark.skipif("LOUPE_DATA" not in os.environ, reason="LOUPE_DATA is unset")
def test_the_scores_of_a_real_photo_and_of_its_enlarged_small_version() -> None:
    folder = Path(os.environ["LOUPE_DATA"])
    true = cv2.cvtColor(cv2.imread(str(folder / "fern" / "images" / "IMG_4026.JPG")), cv2.COLOR_BGR2RGB)
    low = cv2.resize(true, (1008, 756), interpolation=cv2.INTER_AREA)
    enlarged = cv2.resize(low, (4032, 3024), interpolation=cv2.INTER_CUBIC)
    model = metrics.load_niqe(folder / "params" / "niqe" / weights.NIQE.name)
    assert metrics.psnr(enlarged, true) == pytest.approx(27.3, abs=0.05)
    assert metrics.ssim(enlarged, true) == pytest.approx(0.845, abs=1e-3)
    assert metrics.niqe(true, model) == pytest.approx(3.84, abs=0.01)
    assert metrics.niqe(enlarged, model) == pytest.approx(6.97, abs=0.01)
