"""The reference of a sealed capture: what it holds, and that nothing but scoring needs it."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import room_camera, room_photo

from loupe.errors import InputError
from loupe.images import read_image, shrink, write_image
from loupe.ingestion import IngestConfig, ingest
from loupe.method import Recipe, Setting
from loupe.methods import METHODS
from loupe.occupancy import Occupancy
from loupe.photos import Shot
from loupe.poses import PosesConfig, SceneConfig, estimate_scene
from loupe.scene import Scene
from loupe.sources import LAYOUTS
from loupe.space import Space
from loupe.split import SplitConfig
from loupe.tiles import Tiles, write_tiles
from loupe.truth import true_picture
from loupe.undistort import Lens

ROOT = Path(__file__).parents[1]
SEAL = 2
FIT = {"rays": 64, "refresh": 9, "decay": 100, "opacity": 0.1, "stages": [{"voxels": 400, "steps": 3}]}
FLAT = {"stages": [{"voxels": 400, "steps": 3, "planes": 4}]}
RECIPE = {
    "method": "voxel_grid",
    "encoder": {"bounded": {"field": {"hidden": 8}, "fit": FIT}, "forward": {"fit": FLAT}},
    "joint": {"bounded": FIT, "forward": FLAT},
    "render": {"path": {"frames": 0}},
}


def shoot(folder: Path, k1: float = 0.0, margin: int = 0) -> Path:
    """The room's pictures as a capture of nerfstudio's layout, bent by k1; `margin` pixels too many at two sides."""
    (folder / "images").mkdir(parents=True)
    frames = []
    for number, across in enumerate(np.linspace(-0.25, 0.25, 6)):
        camera = room_camera(across, 0.1 * (-1) ** number, 160, 128)
        lens = Lens(160, 128, camera.fx, camera.fy, camera.cx, camera.cy, k1)
        picture = room_photo(camera)
        if k1:
            wide = room_photo(camera.cropped(-40, -40, 240, 208))
            at = np.stack(np.meshgrid(np.arange(160) + 0.5, np.arange(128) + 0.5), -1)
            ideal = lens.undistort(at) * [camera.fx, camera.fy] + [camera.cx, camera.cy]
            x, y = np.rint(ideal - 0.5).astype(int).transpose(2, 0, 1) + 40
            picture = wide[y, x]
        write_image(folder / f"images/{number}.png", np.pad(picture, ((0, margin), (0, margin), (0, 0)), mode="edge"))
        pose = np.linalg.inv(camera.cam_from_world) @ np.diag([1.0, -1, -1, 1])
        frames.append({"file_path": f"images/{number}.png", "transform_matrix": pose.tolist()})
    lens_and_size = {"w": 160 + margin, "h": 128 + margin, "fl_x": camera.fx, "cx": 80.0, "cy": 64.0, "k1": k1}
    (folder / "transforms.json").write_text(json.dumps(lens_and_size | {"frames": frames}))
    return folder


def scene_of(capture: Path, seal: int) -> tuple[Scene, Path]:
    """The scene, and the folder of what is sealed."""
    folder = capture.parent / f"seal{seal}"
    for name in ("photos", "reference", "scene"):
        (folder / name).mkdir(parents=True)
    shots: list[Shot] = LAYOUTS["nerfstudio"].shots(capture)
    config = IngestConfig(seal=seal)
    photos = ingest(shots, config, folder / "photos", print, folder / "reference" if seal > 1 else None).photos
    split = SplitConfig(every=3)
    made = estimate_scene(
        capture,
        (folder / "photos", photos),
        PosesConfig(features=300),
        SceneConfig(ratio=SEAL, split=split),
        folder / "scene",
        print,
        lambda *_: None,
    )
    return made.scene, folder / "reference"


@pytest.mark.parametrize("k1", [0.0, 0.15])
def test_what_is_sealed_is_the_picture_of_an_unsealed_capture(tmp_path: Path, k1: float) -> None:
    capture = shoot(tmp_path / "capture", k1, margin=1)
    sealed, reference = scene_of(capture, SEAL)
    whole, _ = scene_of(capture, 1)
    assert sealed.sealed
    assert not whole.sealed
    for view in sealed.views:
        true = true_picture(sealed, view.name, reference)
        camera, other = sealed.camera(view.name, "full"), whole.camera(view.name, "full")
        assert true.shape == (camera.height, camera.width, 3)
        # Undistortion crops to whole pixels of either resolution; the same world is seen at the same place.
        x, y = round(other.cx - camera.cx), round(other.cy - camera.cy)
        expected = true_picture(whole, view.name, Path())[y : y + camera.height, x : x + camera.width]
        assert abs(other.cx - camera.cx - x) < 1e-9
        assert abs(camera.fx - other.fx) < 1e-9
        difference = np.abs(true[: len(expected), : expected.shape[1]].astype(int) - expected)
        assert difference.max() <= (1 if k1 else 0)
        if not k1:
            assert np.array_equal(sealed.picture(view.name), shrink(true, SEAL))


def test_a_transparent_photo_is_sealed_with_its_mask(tmp_path: Path) -> None:
    """Hidden colours are in neither; what is cut out stands on the backdrop in both."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (24, 32, 4)).astype(np.uint8)
    pixels[..., 3] = np.where(np.arange(32) < 14, 255, 0)
    for number in range(3):
        write_image(tmp_path / f"{number}.png", pixels)
    for name in ("out", "reference"):
        (tmp_path / name).mkdir()
    shots = [Shot(str(number), tmp_path / f"{number}.png") for number in range(3)]
    ingest(shots, IngestConfig(seal=4), tmp_path / "out", print, tmp_path / "reference")
    low, mask, full = (read_image(tmp_path / name) for name in ("out/0.png", "out/masks/0.png", "reference/0.png"))
    assert np.array_equal(full, pixels)
    assert (mask[:, 3] == 128).all()
    shown = pixels[:, 12:14, :3].reshape(6, 4, 2, 3).mean((1, 2))
    assert np.abs(low[:, 3] - shown).max() <= 0.5


def test_the_ratio_is_that_of_the_seal(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"scene\.ratio: 2, but ingest\.seal is 4; they must be the same"):
        scene_of(shoot(tmp_path / "capture"), 4)


def test_methods_that_need_the_full_resolution_are_refused(tmp_path: Path) -> None:
    scene, _ = scene_of(shoot(tmp_path / "capture"), SEAL)
    write_tiles(tmp_path, ((view.name, scene.picture(view.name)) for view in scene.views), SEAL, None, scene.sealed)
    assert not (tmp_path / "full.u8").exists()
    space = Space("bounded", (-1.1, -1.1, -1.1), (1.1, 1.1, 1.1))
    setting = Setting(scene, space, Occupancy(torch.ones(8, 8, 8, dtype=torch.bool)), Tiles(tmp_path))
    joint = {"steps": 3, "patch": 8, "weights": {"perceptual": 0.0}}
    with pytest.raises(InputError, match="the full resolution is sealed: nothing may be trained on it"):
        METHODS["four_k_nerf"]("joint", Recipe(RECIPE | {"joint": joint}), setting)


def test_no_step_but_scoring_opens_the_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All other steps run while it is not there at all; scoring then names what it lacks."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "none")
    monkeypatch.chdir(tmp_path)
    shoot(tmp_path / "capture")
    sections = {
        "ingest": {"seal": SEAL},
        "poses": {"features": 300},
        "scene": {"ratio": SEAL, "split": {"every": 3}},
        "space": {"resolution": 16},
    }
    (tmp_path / "room.yaml").write_text(json.dumps(sections))
    (tmp_path / "small.yaml").write_text(json.dumps(RECIPE))
    (tmp_path / "pipeline.yaml").write_text("score: {scores: [psnr]}\n")

    def run(step: str, **options: str) -> int:
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        monkeypatch.setattr("sys.argv", [step, *words, "--log", f"log/{step}"])
        try:
            runpy.run_path(str(ROOT / f"steps/{step}.py"), run_name="__main__")
        except SystemExit as exit_:
            return int(exit_.code or 0)
        return 0

    given = {"scene": "s/scene", "space": "s/space", "tiles": "s/tiles"}
    run("ingest_photos", capture="capture", config="room.yaml", out="s/photos", reference="s/reference")
    assert len(list(Path("s/reference").glob("*.png"))) == 6
    Path("s/reference").rename("hidden")
    run("estimate_poses", capture="capture", photos="s/photos", config="room.yaml", out="s/scene")
    run("cut_tiles", scene="s/scene", out="s/tiles")
    run("carve_space", scene="s/scene", tiles="s/tiles", config="room.yaml", out="s/space")
    run("fit_encoder", **given, recipe="small.yaml", out="room/small/encoder", resume="resume")
    run("train_joint", **given, encoder="room/small/encoder", recipe="small.yaml", out="room/small/model", resume="r2")
    trained = {"model": "room/small/model", "encoder": "room/small/encoder"}
    run("render_views", **given, **trained, recipe="small.yaml", out="room/r")
    assert read_image(Path("room/r/test/0.png")).shape == (128, 160, 3)
    scored = {"renders": "room/r", "scene": "s/scene", "space": "s/space", "config": "pipeline.yaml", "weights": "w"}
    assert run("score_renders", **scored, reference="s/reference", out="room/small/scores") == 2
    Path("hidden").rename("s/reference")
    assert run("score_renders", **scored, reference="s/reference", out="room/small/scores") == 0
    content = json.loads(Path("room/small/scores/scores.json").read_text())
    assert content["sizes"]["0"] == [160, 128]
    assert content["baselines"]["bicubic_of_true_low"]["mean"]["psnr"] > 20
