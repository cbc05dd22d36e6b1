"""Files of pretrained weights: found in the project's `weights/` or in the usual caches, checked, never fetched."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from loupe.errors import InputError


@dataclass(frozen=True)
class WeightFile:
    """A file's `name`, and the first hexadecimal digits of its SHA-256 ("" where only its content can be checked)."""

    name: str
    sha256: str = ""


ALEXNET = WeightFile("alexnet-owt-7be5be79.pth", "7be5be79")
VGG16 = WeightFile("vgg16-397923af.pth", "397923af")
VGG19 = WeightFile("vgg19-dcbb9e9d.pth", "dcbb9e9d")
CLIP = WeightFile("ViT-B-32.pt", "40d36571")
NIQE = WeightFile("niqe_modelparameters.mat")


def find_weights(file: WeightFile, folder: Path) -> Path | None:
    """Where the file lies: in `folder`, or in the caches that torchvision, pyiqa and CLIP fill; None if nowhere.

    Raises:
        InputError: the file is there, but its digest is another one.
    """
    import torch

    cache = Path(torch.hub.get_dir())
    for place in (folder, cache / "checkpoints", cache / "pyiqa", Path(os.path.expanduser("~/.cache/clip"))):
        path = place / file.name
        if path.is_file():
            _check_digest(path, file.sha256)
            return path
    return None


def _check_digest(path: Path, expected: str) -> None:
    with open(path, "rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if not digest.startswith(expected):
        raise InputError(f"{path}: its SHA-256 begins with {digest[:8]}, expected {expected}; download it again")
