"""How steady 4K-NeRF's films are on the demo: trained jointly, without depth, and separately (the paper's figure 4).

Needs the demo's scene and encoder, as `make demo` leaves them, and takes some ten minutes. The slices, the middle
columns of all frames side by side, are written to `data/consistency/`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from loupe.consistency import Consistency
from loupe.images import to_uint8, write_image
from loupe.method import Method, Recipe, Setting
from loupe.metrics import psnr, ssim
from loupe.render import PathConfig, film_cameras
from loupe.trial import Model, load_setting, read_recipe, train_phase

SCENE, ENCODER = Path("data/scenes/demo"), Path("data/trials/demo/voxel_grid/encoder")
RECIPE = Path("configs/recipes/four_k_nerf_small.yaml")
FILM = PathConfig(frames=24, width=1024)
SWITCHES: dict[str, dict[str, object]] = {
    "joint": {},
    "without depth": {"conditions": []},
    "separate": {"train_encoder": False},
}
OUT = Path("data/consistency")


def trained(switch: dict[str, object], setting: Setting) -> Method:
    """The small preset with one switch thrown, from the demo's encoder."""
    base = read_recipe(RECIPE, "joint")
    recipe = Recipe({**base.content, "joint": {**base.content["joint"], **switch}}, base.where)
    with tempfile.TemporaryDirectory() as resume:
        model = train_phase(
            "joint",
            recipe,
            setting,
            resume=Path(resume),
            inputs={},
            report=lambda *_: None,
            encoder=Model.load(ENCODER),
        )
    return model.method_for(setting)


def scores(method: Method, setting: Setting) -> tuple[float, float]:
    """Mean PSNR and SSIM over the held-out views."""
    assert setting.tiles is not None
    pairs = []
    for name in setting.scene.test:
        picture = to_uint8(method.render(setting.scene.camera(name, "full"), 0.0).colour.cpu().numpy())
        photo = np.ascontiguousarray(setting.tiles.image(name, "full"))
        pairs.append((psnr(picture, photo), ssim(picture, photo)))
    return float(np.mean([pair[0] for pair in pairs])), float(np.mean([pair[1] for pair in pairs]))


def main() -> None:
    """One line for each switch."""
    if not ENCODER.is_dir():
        sys.exit(f"{ENCODER}: not there yet; run make demo first")
    setting = load_setting(SCENE / "scene", SCENE / "space", SCENE / "tiles")
    OUT.mkdir(exist_ok=True)
    for name, switch in SWITCHES.items():
        method, watch = trained(switch, setting), Consistency()
        for camera in film_cameras(setting.scene, setting.space, FILM):
            watch.add(method.render(camera, 0.0), camera)
        write_image(OUT / f"{name.replace(' ', '_')}.png", watch.slice)
        decibels, similarity = scores(method, setting)
        print(f"{name:14} warping error {watch.error:.3f}; {decibels:.3f} dB, SSIM {similarity:.4f}", flush=True)


if __name__ == "__main__":
    main()
