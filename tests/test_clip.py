"""The semantic loss on a tiny CLIP of open_clip's own class, and files that hold its weights or do not."""

from __future__ import annotations

import hashlib
import json
import socket
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import open_clip
import PIL.Image
import pytest
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from safetensors.torch import save_file
from test_metrics import Malicious
from torch import nn
from torch.nn import functional

from loupe import weights
from loupe.errors import InputError
from loupe.nets import clip
from loupe.nets.clip import clip_for, load_clip, semantic_distance

SIZE = 32
TINY: dict[str, Any] = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": SIZE, "layers": 2, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 4, "vocab_size": 10, "width": 64, "heads": 1, "layers": 1},
}


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without weights and without a network, and the folder that stands for `weights/`."""

    def refuse(*arguments: object) -> None:
        raise AssertionError(f"asked the network: {arguments}")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "huggingface"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(clip, "_WEIGHTS", tmp_path / "weights")
    return tmp_path / "weights"


def tiny() -> Any:
    """CLIP with weights drawn at random."""
    torch.manual_seed(0)
    return open_clip.model.CLIP(**TINY).eval()


def as_openai_stores(model: Any, path: Path) -> Path:
    """A TorchScript archive of half precision."""
    path.parent.mkdir(parents=True, exist_ok=True)
    del model.attn_mask  # not among OpenAI's
    torch.jit.trace_module(model.half(), {"encode_image": torch.zeros(1, 3, SIZE, SIZE).half()}).save(str(path))
    return path


def as_open_clip_stores(model: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (save_file if path.suffix == ".safetensors" else torch.save)(model.state_dict(), path)
    return path


@pytest.fixture
def encoder(tmp_path: Path) -> nn.Module:
    path = tmp_path / "plain.pt"
    torch.save(tiny().state_dict(), path)
    return load_clip(path)


@pytest.fixture
def small_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """open_clip knows the tiny network by a name, and the loss uses that."""
    (tmp_path / "loupe-tiny.json").write_text(json.dumps(TINY))
    open_clip.add_model_config(tmp_path / "loupe-tiny.json")
    monkeypatch.setattr(clip, "_MODEL", "loupe-tiny")


def pictures(seed: int, *size: int) -> torch.Tensor:
    return torch.rand(*size, generator=torch.Generator().manual_seed(seed))


def smooth(height: int, width: int) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width] / 12
    layers = np.stack([np.sin(rows + columns), np.cos(rows - 2 * columns), np.sin(rows * 0.5)], axis=-1)
    return np.rint(127.5 + 100 * layers).astype(np.uint8)


def seen_by(encoder: nn.Module, shown: torch.Tensor) -> torch.Tensor:
    """What arrives at the network itself."""
    arrived: list[torch.Tensor] = []
    handle = encoder.register_forward_pre_hook(lambda module, arguments: arrived.append(arguments[0]))
    semantic_distance(encoder, shown, shown)
    handle.remove()
    assert len(arrived) == 2
    torch.testing.assert_close(arrived[0], arrived[1])
    return arrived[0]


def test_the_network_is_radfords_and_its_file_is_told_by_the_digest_that_open_clip_knows() -> None:
    of_tag = open_clip.get_pretrained_cfg(clip._MODEL, clip._TAG)
    config = open_clip.get_model_config(clip._MODEL)
    assert config["quick_gelu"] is of_tag["quick_gelu"] is True
    assert (config["vision_cfg"]["image_size"], config["vision_cfg"]["patch_size"]) == (224, 32)
    assert of_tag["interpolation"] == "bicubic"
    digest, name = of_tag["url"].split("/")[-2:]
    assert name == weights.CLIP.name
    assert digest.startswith(weights.CLIP.sha256)


class Mean(nn.Module):
    """Stands in for the encoder: the embedding is a picture's mean colour, seen from grey."""

    image_size, image_mean, image_std = (4, 4), (0.5, 0.5, 0.5), (1.0, 1.0, 1.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 7 * x.mean(dim=(2, 3))


def test_distances_by_hand() -> None:
    colours = (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0.5, 0.5)
    bright, dark, red = (torch.tensor(colour).view(1, 3, 1, 1).expand(-1, -1, 9, 9) for colour in colours)
    assert float(semantic_distance(Mean(), bright, dark)) == pytest.approx(2)
    assert float(semantic_distance(Mean(), bright, red)) == pytest.approx(1 - 1 / 3**0.5)
    both = torch.cat([bright, bright]), torch.cat([dark, red])
    assert float(semantic_distance(Mean(), *both)) == pytest.approx((2 + 1 - 1 / 3**0.5) / 2)


def test_pictures_alike_are_at_no_distance(encoder: nn.Module) -> None:
    one, other = pictures(1, 3, 3, 48, 40), pictures(2, 3, 3, 48, 40) ** 4
    assert float(semantic_distance(encoder, one, one)) == pytest.approx(0, abs=1e-6)
    assert 1e-3 < float(semantic_distance(encoder, one, other)) < 2


def test_only_what_was_made_learns_the_same_each_time(encoder: nn.Module) -> None:
    made, true = (pictures(seed, 2, 3, 48, 40).requires_grad_() for seed in (1, 2))
    torch.use_deterministic_algorithms(True)
    try:
        first, second = (torch.autograd.grad(semantic_distance(encoder, made, true), made)[0] for _ in range(2))
        semantic_distance(encoder, made, true).backward()
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.equal(first, second)
    assert true.grad is None
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert (made.grad != 0).float().mean() > 0.99  # no pixel is cropped away
    nudge = 1e-2 * first / first.norm()
    with torch.no_grad():
        slope = (semantic_distance(encoder, made + nudge, true) - semantic_distance(encoder, made - nudge, true)) / 2e-2
    assert float(slope) == pytest.approx(float(first.norm()), rel=1e-2)


@pytest.mark.parametrize(("height", "width"), [(96, 96), (64, 128), (20, 24)])
def test_the_network_sees_what_open_clips_own_preprocessing_shows_it(
    encoder: nn.Module, height: int, width: int
) -> None:
    """Through Pillow, whose whole numbers are rounded after the rows and after the columns: 0.5 * 1.25 + 0.5 apart, for
    the absolute weights of a bicubic filter add up to at most 1.25."""
    config = PreprocessCfg(size=SIZE, resize_mode="squash")
    picture = smooth(height, width)
    expected = image_transform_v2(config, is_train=False)(PIL.Image.fromarray(picture))
    shown = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
    off = (seen_by(encoder, shown)[0] - expected) * torch.tensor(config.std).view(3, 1, 1) * 255
    assert float(off.abs().max()) < 1.126


def test_a_fine_pattern_becomes_grey_instead_of_stripes(encoder: nn.Module) -> None:
    """Stripes of one pixel, 16.25 to a pixel of CLIP's: without a filter, it would see those that it happens to hit."""
    stripes = torch.zeros(1, 3, 512, 520)
    stripes[..., ::2] = 1
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in (encoder.image_mean, encoder.image_std))
    seen = seen_by(encoder, stripes) * deviation + mean
    torch.testing.assert_close(seen, torch.full_like(seen, 0.5), atol=0.02, rtol=0)
    unfiltered = functional.interpolate(stripes, (SIZE, SIZE), mode="bicubic")
    assert float((unfiltered - 0.5).abs().max()) > 0.3, "the pattern does not tell"


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_openais_file_in_the_folder_is_taken_and_gives_its_network(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny()
    expected = {name: value.half().float() for name, value in model.visual.state_dict().items()}
    path = as_openai_stores(model, place / weights.CLIP.name)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(clip, "CLIP", weights.WeightFile(weights.CLIP.name, digest[:8]))
    found = clip_for("weights.semantic")
    assert not found.training
    assert not any(parameter.requires_grad for parameter in found.parameters())
    assert found.state_dict().keys() == expected.keys()
    for name, value in found.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0)
    assert found.image_mean == open_clip.OPENAI_DATASET_MEAN
    assert found.image_std == open_clip.OPENAI_DATASET_STD


@pytest.mark.usefixtures("small_model")
@pytest.mark.parametrize("name", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_what_open_clip_has_cached_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr("open_clip.get_pretrained_cfg", lambda model, tag: {"hf_hub": f"timm/{model}.{tag}/"})
    folder = tmp_path / "huggingface" / "models--timm--loupe-tiny.openai"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0123")
    model = tiny()
    as_open_clip_stores(model, folder / "snapshots" / "0123" / name)
    found = clip_for("weights.semantic")
    for key, value in found.state_dict().items():
        torch.testing.assert_close(value, model.visual.state_dict()[key], rtol=0, atol=0)
    assert not any(parameter.requires_grad for parameter in found.parameters())


def test_clips_own_cache_is_looked_into(tmp_path: Path) -> None:
    path = tmp_path / "home" / ".cache" / "clip" / weights.CLIP.name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"random numbers")
    with pytest.raises(InputError, match=rf"{path}: its SHA-256 begins with .* expected 40d36571; download it again"):
        clip_for("weights.semantic")


def test_without_weights_one_line_says_what_to_do(place: Path) -> None:
    with pytest.raises(InputError) as caught:
        clip_for("joint.weights.semantic")
    assert str(caught.value) == (
        f"the semantic loss needs CLIP's ViT-B-32.pt: put it into {place}/ (see {place}/README.md), or set "
        "joint.weights.semantic to 0"
    )


@pytest.mark.usefixtures("small_model")
@pytest.mark.parametrize("name", ["x.pt", "x.bin", "x.safetensors"])
@pytest.mark.parametrize("harm", ["text", "empty", "part", "program"])
def test_other_files_are_refused(tmp_path: Path, name: str, harm: str) -> None:
    path, traces = tmp_path / name, tmp_path / "traces"
    state = tiny().state_dict()
    if harm == "part":
        del state["visual.conv1.weight"]
    if harm == "program":
        state["visual.conv1.weight"] = Malicious(traces)
    if harm in ("text", "empty"):
        path.write_text("no weights" if harm == "text" else "")
    elif harm == "part" and name.endswith("safetensors"):
        save_file(state, path)
    else:
        torch.save(state, path)
    with pytest.raises(
        InputError, match=rf"^{path}: not the weights of CLIP's ViT-B/32 \(.*\); see weights/README"
    ) as caught:
        load_clip(path)
    assert "\n" not in str(caught.value)
    assert not traces.exists()
