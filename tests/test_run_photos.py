"""`make run`: names, links, YAML and refusals, without running the pipeline."""

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from toyproject import ROOT, Project

from loupe.errors import InputError
from loupe.images import write_image
from loupe.pipeline import Pipeline, TrialEntry, read_pipeline
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
BLOCKS = """\
captures: # two so far
  - demo
  - fern
encoders:
  demo.vq_nerf_small:
    capture: demo
    recipe: vq_nerf_small

trials: # none yet
codebooks:
  # of two captures
  demo:
    config: vqvae_f4
    captures:
      - demo
      - fern
codebook_captures: # as above

  demo.demo:
    codebook: demo
    capture: demo
  demo.fern: {codebook: demo, capture: fern}
codebook_grafts:
  demo.mine:
    capture: demo
    name: coded
    encoder: vq_nerf_small
    codebook: demo
"""
EMPTY = """\
captures: []
encoders: { }  # none yet
grafts: {}
codebook_grafts:
trials: {}
codebooks: {}
codebook_captures: {} # nor here
score: {}
"""
# A step of no weight: it makes what it is told to make, and needs what DVC asks for.
STUB = """\
import sys
from pathlib import Path
for option, path in zip(sys.argv[1::2], sys.argv[2::2]):
    if option in ("--out", "--log", "--reference"):
        Path(path).mkdir(parents=True, exist_ok=True)
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
def shipped(project: Path) -> Path:
    """The project with the repository's own configuration."""
    shutil.copytree(ROOT / "configs", project / "configs", dirs_exist_ok=True)
    return project


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


def test_a_folder_named_by_a_number_is_a_capture(project: Path) -> None:
    run_photos.add_trial("2024", "voxel_grid")
    assert read_pipeline(run_photos.PIPELINE).trials["2024.voxel_grid"].capture == "2024"


def test_the_real_pipeline_takes_a_trial(shipped: Path) -> None:
    run_photos.add_trial("holiday", "voxel_grid")
    assert "holiday.voxel_grid" in read_pipeline(run_photos.PIPELINE).trials


def entries_of(pipeline: Pipeline, capture: str) -> dict[str, dict]:
    """What the pipeline lists for a capture, section by section."""
    sections = pipeline.model_dump(exclude={"captures", "score"})
    return {
        section: {key: entry for key, entry in entries.items() if capture in re.split(r"[._]", key)}
        for section, entries in sections.items()
    }


@pytest.mark.parametrize("text", [None, PIPELINE, BLOCKS, EMPTY], ids=["shipped", "lines", "blocks", "empty"])
def test_a_trial_of_vq_nerf_begins_with_a_codebook_of_its_capture(shipped: Path, text: str | None) -> None:
    if text:
        run_photos.PIPELINE.write_text(text)
    before, listed = run_photos.PIPELINE.read_text(), read_pipeline(run_photos.PIPELINE)
    run_photos.add_trial("holiday", "vq_nerf_small")
    once, pipeline = run_photos.PIPELINE.read_text(), read_pipeline(run_photos.PIPELINE)
    graft = {"capture": "holiday", "name": "vq_nerf_small_vqvae_f4"}
    assert entries_of(pipeline, "holiday") == {
        "encoders": {"holiday.vq_nerf_small": {"capture": "holiday", "recipe": "vq_nerf_small"}},
        "grafts": {},
        "codebooks": {"holiday_vqvae_f4": {"config": "vqvae_f4", "captures": ["holiday"]}},
        "codebook_captures": {"holiday_vqvae_f4.holiday": {"codebook": "holiday_vqvae_f4", "capture": "holiday"}},
        "codebook_grafts": {
            "holiday.vq_nerf_small_vqvae_f4": graft | {"encoder": "vq_nerf_small", "codebook": "holiday_vqvae_f4"}
        },
        "trials": {
            "holiday.vq_nerf_small": {"capture": "holiday", "recipe": "vq_nerf_small", "encoder": graft["name"]}
        },
    }
    assert entries_of(pipeline, "demo") == entries_of(listed, "demo")
    assert pipeline.captures == ["holiday", *listed.captures]
    assert re.findall("#.*", once) == re.findall("#.*", before)
    run_photos.add_trial("holiday", "vq_nerf_small")
    assert run_photos.PIPELINE.read_text() == once


def test_trials_of_vq_nerf_share_what_is_the_same(shipped: Path) -> None:
    """Encoder, codebook and graft where all are the same; the codebook alone, or the encoder alone."""
    for recipe in ("vq_nerf", "vq_nerf_no_clip", "vq_nerf_1024x16", "vq_nerf_small", "vq_nerf_cpu"):
        run_photos.add_trial("holiday", recipe)
    listed = read_pipeline(run_photos.PIPELINE)
    made = entries_of(listed, "holiday")
    grafts = {graft["name"]: (graft["encoder"], graft["codebook"]) for graft in made["codebook_grafts"].values()}
    begins = {trial["recipe"]: grafts[trial["encoder"]] for trial in made["trials"].values()}
    assert begins == {
        "vq_nerf": ("vq_nerf", "holiday_vqvae_f4_2048x16"),
        "vq_nerf_no_clip": ("vq_nerf", "holiday_vqvae_f4_2048x16"),
        "vq_nerf_1024x16": ("vq_nerf", "holiday_vqvae_f4_1024x16"),
        "vq_nerf_small": ("vq_nerf_small", "holiday_vqvae_f4"),
        "vq_nerf_cpu": ("vq_nerf_cpu", "holiday_vqvae_f4"),
    }
    assert {section: len(entries) for section, entries in made.items()} == {
        "encoders": 3,
        "grafts": 0,
        "codebook_grafts": 4,
        "trials": 5,
        "codebooks": 3,
        "codebook_captures": 3,
    }


def test_a_codebook_of_several_captures_and_a_graft_by_another_name_are_taken(shipped: Path) -> None:
    run_photos.PIPELINE.write_text(BLOCKS)
    before = read_pipeline(run_photos.PIPELINE)
    run_photos.add_trial("demo", "vq_nerf_small")
    trial = TrialEntry(capture="demo", recipe="vq_nerf_small", encoder="coded")
    assert read_pipeline(run_photos.PIPELINE) == before.model_copy(update={"trials": {"demo.vq_nerf_small": trial}})


@pytest.mark.parametrize("found", ["none", "again, vqvae_f4"])
def test_a_recipe_asks_for_exactly_one_codebook(shipped: Path, found: str) -> None:
    before, file = run_photos.PIPELINE.read_text(), run_photos.CODEBOOKS / "vqvae_f4.yaml"
    if found == "none":
        file.unlink()
    else:
        shutil.copy(file, run_photos.CODEBOOKS / "again.yaml")
    with pytest.raises(InputError, match=rf"vq_nerf_small.yaml: joint.codebook: must be .* is that of {found};"):
        run_photos.add_trial("holiday", "vq_nerf_small")
    assert run_photos.PIPELINE.read_text() == before


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (
            "holiday",
            BLOCKS.replace(
                "codebooks:", "codebooks:\n  holiday_vqvae_f4: {config: vqvae_f4, captures: [demo]}"
            ).replace("  demo.demo:", "  x.y: {codebook: holiday_vqvae_f4, capture: demo}\n  demo.demo:"),
            "codebooks.holiday_vqvae_f4: vq_nerf_small needs an entry of this name; rename the one there",
        ),
        (
            "holiday",
            BLOCKS.replace("encoders:", "encoders:\n  x.y: {capture: holiday, recipe: vq_nerf_small_vqvae_f4}"),
            "codebook_grafts.holiday.vq_nerf_small_vqvae_f4: encoders.x.y makes data/trials/holiday/",
        ),
        ("x" * 60, BLOCKS, "entry name 'x{60}_vqvae_f4': use up to 64 letters"),
        ("holiday", BLOCKS.replace("  - demo\n  - fern", "- demo", 1), "configs/pipeline.yaml:3: not plain YAML: "),
        ("holiday", EMPTY.replace("codebooks: {}\n", ""), "'codebooks:' must open a line"),
    ],
    ids=["codebook", "encoder", "long", "indent", "missing"],
)
def test_a_trial_that_does_not_fit_is_refused_and_the_pipeline_left(
    shipped: Path, name: str, text: str, words: str
) -> None:
    shutil.copy("configs/recipes/voxel_grid.yaml", "configs/recipes/vq_nerf_small_vqvae_f4.yaml")
    run_photos.PIPELINE.write_text(text)
    read_pipeline(run_photos.PIPELINE)
    with pytest.raises(InputError, match=words) as caught:
        run_photos.add_trial(name, "vq_nerf_small")
    assert "\n" not in str(caught.value)
    assert run_photos.PIPELINE.read_text() == text


def test_a_run_makes_all_that_a_trial_of_vq_nerf_needs_and_nothing_else(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """DVC itself, over steps of no weight: no stage names the captures that a codebook is trained on."""
    project = Project(shipped, tmp_path)
    for name, value in project.environment.items():
        monkeypatch.setenv(name, value)
    for name in ("dvc.yaml", ".dvcignore", "weights/README.md", ".dvc/config"):
        project.path(name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, project.path(name))
    for step in (ROOT / "steps").glob("*.py"):
        project.path("steps").mkdir(exist_ok=True)
        project.path(f"steps/{step.name}").write_text(STUB)
    (tmp_path / "photos").mkdir()
    run_photos.link_capture(tmp_path / "photos", "holiday")
    run_photos.write_capture_config("holiday")
    run_photos.add_trial("holiday", "vq_nerf_small")
    project.call("git", "init", "--quiet")
    run_photos.run("holiday", "vq_nerf_small")
    codebook, trial = "holiday_vqvae_f4", "holiday.vq_nerf_small"
    made = re.findall("Running stage '(.*)'", capfd.readouterr().out)
    assert sorted(made) == sorted(
        [f"{step}@holiday" for step in ("ingest_photos", "estimate_poses", "cut_tiles", "carve_space")]
        + [f"gather_views@{codebook}.holiday", f"pretrain_codebook@{codebook}", f"graft_codebook@{trial}_vqvae_f4"]
        + [f"{step}@{trial}" for step in ("fit_encoder", "train_joint", "render_views", "score_renders")]
        + ["write_report"]
    )


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
