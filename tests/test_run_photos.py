"""`make run`: names, links, YAML and refusals, without running the pipeline."""

import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from loupe.errors import InputError
from loupe.images import write_image
from workflow import run_photos

PIPELINE = """\
# a comment that must stay
captures:
  - demo
encoders:
  demo.voxel_grid: {capture: demo, recipe: voxel_grid}
trials:
  demo.voxel_grid: {capture: demo, recipe: voxel_grid, encoder: voxel_grid}
grafts: {}
codebook_grafts: {}
codebooks: {}
codebook_captures: {}
score: {}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "project"
    for folder in ("configs/captures", "configs/recipes", "data/captures"):
        (root / folder).mkdir(parents=True)
    (root / "configs/pipeline.yaml").write_text(PIPELINE)
    for recipe, encoder in (("voxel_grid", 1), ("fine", 1), ("other", 2)):
        (root / f"configs/recipes/{recipe}.yaml").write_text(f"encoder: {encoder}\n")
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "My holiday (2)"
    folder.mkdir()
    write_image(folder / "a.jpg", np.zeros((8, 8, 3), np.uint8))
    return folder


@pytest.mark.parametrize(
    ("folder", "name"),
    [("My holiday (2)", "My_holiday_2"), ("banana/images", "banana"), ("..hidden", "hidden"), ("x" * 99, "x" * 64)],
)
def test_a_folder_gives_a_name_that_is_allowed(folder: str, name: str) -> None:
    assert run_photos.name_for(Path("/photos") / folder) == name


@pytest.mark.parametrize("cameras", ["poses_bounds.npy", "transforms.json"])
def test_images_beside_cameras_are_one_capture(photos: Path, cameras: str) -> None:
    images = photos / "images"
    images.mkdir()
    assert run_photos.find_capture(str(images)) == images
    (photos / cameras).touch()
    assert run_photos.find_capture(str(images)) == photos


def test_the_trial_joins_the_pipeline_once_and_comments_stay(project: Path) -> None:
    run_photos.add_trial("holiday", "voxel_grid")
    once = run_photos.PIPELINE.read_text()
    content = yaml.safe_load(once)
    assert set(content["captures"]) == {"demo", "holiday"}
    trial = {"recipe": "voxel_grid", "encoder": "voxel_grid"}
    assert content["trials"]["holiday.voxel_grid"] == {"capture": "holiday", **trial}
    assert content["trials"]["demo.voxel_grid"] == {"capture": "demo", **trial}
    assert content["encoders"]["holiday.voxel_grid"] == {"capture": "holiday", "recipe": "voxel_grid"}
    assert "# a comment that must stay" in once
    run_photos.add_trial("holiday", "voxel_grid")
    assert run_photos.PIPELINE.read_text() == once


def test_recipes_with_the_same_encoder_share_it(project: Path) -> None:
    for recipe in ("voxel_grid", "fine", "other"):
        run_photos.add_trial("holiday", recipe)
    content = yaml.safe_load(run_photos.PIPELINE.read_text())
    assert {key for key in content["encoders"] if "holiday" in key} == {"holiday.voxel_grid", "holiday.other"}
    found = {name: content["trials"][f"holiday.{name}"]["encoder"] for name in ("voxel_grid", "fine", "other")}
    assert found == {"voxel_grid": "voxel_grid", "fine": "voxel_grid", "other": "other"}


def test_the_real_pipeline_takes_a_trial(project: Path) -> None:
    real = Path(run_photos.__file__).parents[1] / run_photos.PIPELINE
    run_photos.PIPELINE.write_text(real.read_text())
    run_photos.add_trial("holiday", "voxel_grid")
    assert "holiday.voxel_grid" in yaml.safe_load(run_photos.PIPELINE.read_text())["trials"]


def test_a_pipeline_written_in_one_line_is_refused_untouched(project: Path) -> None:
    run_photos.PIPELINE.write_text("captures: [demo]\nencoders: {}\ntrials: {}\n")
    with pytest.raises(InputError, match="line by line"):
        run_photos.add_trial("holiday", "voxel_grid")
    assert run_photos.PIPELINE.read_text() == "captures: [demo]\nencoders: {}\ntrials: {}\n"


def test_the_capture_is_linked_and_a_second_one_of_that_name_refused(project: Path, photos: Path) -> None:
    run_photos.link_capture(photos, "holiday")
    run_photos.link_capture(photos, "holiday")
    assert (project / "data/captures/holiday/a.jpg").samefile(photos / "a.jpg")
    with pytest.raises(InputError, match="another capture"):
        run_photos.link_capture(photos.parent, "holiday")


def test_a_yaml_that_the_user_edited_is_kept(project: Path) -> None:
    run_photos.write_capture_config("holiday")
    path = Path("configs/captures/holiday.yaml")
    assert set(yaml.safe_load(path.read_text())) == {"ingest", "poses", "scene", "space"}
    path.write_text("mine: 1\n")
    run_photos.write_capture_config("holiday")
    assert path.read_text() == "mine: 1\n"


@pytest.mark.parametrize("option", ["--name", "--recipe"])
@pytest.mark.parametrize("name", ["../x", "/etc", "-rf", "a\nb", "caf\u00e9", "x" * 300, "CON", "$(x)"])
def test_a_dangerous_name_is_one_line_and_nothing_is_written(
    project: Path, photos: Path, monkeypatch: pytest.MonkeyPatch, option: str, name: str
) -> None:
    before = sorted(project.rglob("*"))
    monkeypatch.setattr(sys, "argv", ["run_photos.py", str(photos), f"{option}={name}"])
    monkeypatch.setattr(run_photos, "run", lambda *names: None)
    with pytest.raises(SystemExit, match=r"run: (capture|recipe) name .*: use up to 64 letters") as caught:
        run_photos.main()
    assert "\n" not in str(caught.value)
    assert sorted(project.rglob("*")) == before


@pytest.mark.parametrize("photos", ["", "nowhere"])
def test_no_folder_is_one_clear_line(project: Path, photos: str) -> None:
    with pytest.raises(InputError, match="no such folder; use make run PHOTOS=folder"):
        run_photos.find_capture(photos)


def test_too_little_disk_is_refused_before_anything_runs(
    project: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_photos, "DISK_PER_PHOTO_BYTE", 1e15)
    with pytest.raises(InputError, match="GB are needed for these photos"):
        run_photos.check_machine(photos)
