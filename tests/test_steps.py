"""The step scripts, run by the command lines of `dvc.yaml` on a tiny capture: what they make, and how they refuse.

`pipelineproject.py` makes the project; `fingerprints.py` measures what the steps make.
"""

from __future__ import annotations

import contextlib
import json
import math
import runpy
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import fingerprints
import numpy as np
import pipelineproject
import pytest
import torch
import toyproject
import yaml
from pipelineproject import PHOTOS, Pipeline, step_of
from safetensors.numpy import load_file

from loupe.images import read_image, write_image
from loupe.scene import Scene
from loupe.tiles import Tiles, write_tiles

pytestmark = pytest.mark.timeout(900)  # the first test waits for all steps

STAGES = {
    "ingest_photos@tiny": "photos.json",
    "estimate_poses@tiny": "scene.json",
    "cut_tiles@tiny": "tiles.json",
    "carve_space@tiny": "space.json",
    "gather_views@tiny.tiny": "full.u8",
    "pretrain_codebook@tiny": "model.safetensors",
    "fit_encoder@tiny.small": "model.safetensors",
    "fit_encoder@tiny.surface": "model.safetensors",
    "graft_decoder@tiny.again": "model.safetensors",
    "graft_codebook@tiny.coded": "model.safetensors",
    "train_joint@tiny.decoded": "model.safetensors",
    "train_joint@tiny.small": "model.safetensors",
    "train_joint@tiny.surface": "model.safetensors",
    "render_views@tiny.decoded": "renders.json",
    "render_views@tiny.small": "renders.json",
    "render_views@tiny.surface": "mesh.ply",
    "score_renders@tiny.decoded": "scores.json",
    "score_renders@tiny.small": "scores.json",
    "score_renders@tiny.surface": "scores.json",
    "write_report": "index.html",
}
SCENE, SPACE, TILES = (f"data/scenes/tiny/{name}" for name in ("scene", "space", "tiles"))
TRIAL = "data/trials/tiny/small"
CAPTURE, RECIPE = "configs/captures/tiny.yaml", "configs/recipes/small.yaml"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    made = pipelineproject.create(tmp_path_factory.mktemp("pipeline"))
    made.call("dvc", "repro")
    return made


class Done(NamedTuple):
    """How a step ended: its exit status, and what it wrote to the terminal."""

    status: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture
def run(project: Pipeline, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs a script with its options in this process, which has loaded all libraries, as the project would run it."""
    for name in ("MLFLOW_TRACKING_URI", "TORCH_HOME"):
        monkeypatch.setenv(name, project.environment[name])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(project.root)
    threads = torch.get_num_threads()
    torch.set_num_threads(int(project.environment["OMP_NUM_THREADS"]))

    def run_here(script: str, *words: str) -> Done:
        monkeypatch.setattr("sys.argv", [script, *words])
        capfd.readouterr()
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as exit_:
            return Done(int(exit_.code or 0), *capfd.readouterr())
        return Done(0, *capfd.readouterr())

    yield run_here
    torch.set_num_threads(threads)


@pytest.fixture
def try_step(run: Run) -> Run:
    """Runs a step by name with the given options; its product and its log go to folders of their own."""

    def try_with(step: str, **options: object) -> Done:
        sealed = {"reference": "tried/reference"} if step in ("ingest_photos", "score_renders") else {}
        options = {"out": "tried/out", "log": "tried/log"} | sealed | options
        return run(f"steps/{step}.py", *(word for name, value in options.items() for word in (f"--{name}", str(value))))

    return try_with


def scores_of(project: Pipeline) -> dict:
    return json.loads((project.product("score_renders@tiny.small") / "scores.json").read_text())


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_leaves_its_product_and_its_log(project: Pipeline, stage: str) -> None:
    assert list(project.stages) == list(STAGES)
    assert (project.product(stage) / STAGES[stage]).is_file()
    run = json.loads((project.log(stage) / "run.json").read_text())
    assert (run["step"], run["status"]) == (step_of(stage), "finished")
    assert run["seconds"] > 0
    assert run["peak_memory_mb"] > 10


def test_a_graft_holds_the_encoder_and_the_other_trials_decoder(project: Pipeline) -> None:
    encoder, donor, made = (
        load_file(project.product(stage) / "model.safetensors")
        for stage in ("fit_encoder@tiny.small", "train_joint@tiny.decoded", "graft_decoder@tiny.again")
    )
    decoder = {name for name in donor if name.startswith("decoder.")}
    assert decoder
    assert made.keys() == encoder.keys() | decoder
    for name, value in made.items():
        np.testing.assert_array_equal(value, donor[name] if name in decoder else encoder[name])


def test_a_trial_without_a_decoder_has_none_to_give(project: Pipeline, try_step: Run) -> None:
    done = try_step("graft_decoder", **{"encoder": f"{TRIAL}/encoder", "init-from": f"{TRIAL}/model"})
    assert_refused(done, f"{TRIAL}/model/model.json: its method 'voxel_grid' has no decoder")


def test_a_codebook_of_two_captures_sees_both_and_is_refused_by_tests_on_either(
    project: Pipeline, try_step: Run, tmp_path: Path
) -> None:
    """The second capture is the first one mirrored, under the same names of views."""
    scene, tiles, views = Scene.load(project.path(SCENE)), Tiles(project.path(TILES)), tmp_path / "duo/views"
    (tmp_path / "tiles").mkdir()
    write_tiles(tmp_path / "tiles", [(name, tiles.image(name, "full")[:, ::-1]) for name in tiles.names], tiles.ratio)
    for capture, folder in (("tiny", TILES), ("mirror", tmp_path / "tiles")):
        assert try_step("gather_views", scene=SCENE, tiles=folder, out=views / capture).status == 0

    config = tmp_path / "pipeline.yaml"
    pairs = {f"duo.{capture}": {"codebook": "duo", "capture": capture} for capture in ("tiny", "mirror")}
    codebooks = {"duo": {"config": "small", "captures": ["tiny", "mirror"]}}
    config.write_text(yaml.safe_dump({"codebooks": codebooks, "codebook_captures": pairs}))
    options = {"views": views, "pipeline": config, "config": "configs/codebooks/small.yaml", "resume": tmp_path / "r"}
    done = try_step("pretrain_codebook", out=tmp_path / "duo/codebook", **options)
    assert done.status == 0, done.stderr
    seen = json.loads((tmp_path / "duo/codebook/model.json").read_text())["views"]
    assert list(seen) == [f"{capture}.{name}" for capture in ("tiny", "mirror") for name in scene.train]
    assert len(set(seen.values())) == 2 * len(scene.train)

    encoder = project.product("fit_encoder@tiny.surface")
    graft = {"encoder": encoder, "codebook": tmp_path / "duo/codebook", "out": tmp_path / "a/b/encoder"}
    shutil.copytree(project.path(SCENE), tmp_path / "scene", copy_function=shutil.copyfile)
    content = json.loads((tmp_path / "scene/scene.json").read_text())
    content |= {"train": list(scene.test), "test": [scene.train[1]]}  # as another split would have it
    (tmp_path / "scene/scene.json").write_text(json.dumps(content))
    for capture, folder in (("tiny", TILES), ("mirror", tmp_path / "tiles")):
        assert try_step("graft_codebook", scene=SCENE, tiles=folder, **graft).status == 0
        done = try_step("graft_codebook", scene=tmp_path / "scene", tiles=folder, **graft)
        assert_refused(
            done, f"test view {scene.train[1]}: the codebook was trained on it (as {capture}.{scene.train[1]})"
        )

    codebooks["duo"]["captures"].remove("mirror")
    del pairs["duo.mirror"]
    config.write_text(yaml.safe_dump({"codebooks": codebooks, "codebook_captures": pairs}))
    done = try_step("pretrain_codebook", out=tmp_path / "duo/codebook", **options)
    assert_refused(done, f"{views / 'mirror'}: not among the captures of this codebook; delete this folder")


def test_a_codebook_that_the_pipeline_does_not_list(project: Pipeline, try_step: Run, tmp_path: Path) -> None:
    options = {"views": "data/codebooks/tiny/views", "config": "configs/codebooks/small.yaml", "resume": tmp_path}
    done = try_step("pretrain_codebook", pipeline="configs/pipeline.yaml", out=tmp_path / "absent/codebook", **options)
    assert_refused(done, "configs/pipeline.yaml: codebooks: no 'absent' there")


def test_nothing_is_left_to_resume(project: Pipeline) -> None:
    assert not list(project.path("data/resume").rglob("*.safetensors"))


def test_a_second_run_executes_nothing(project: Pipeline) -> None:
    assert "Running stage" not in project.call("dvc", "repro")


def test_the_model_beats_a_single_colour(project: Pipeline) -> None:
    scores = scores_of(project)
    assert all(math.isfinite(view["psnr"]) for view in scores["views"].values())
    assert scores["mean"]["psnr"] > scores["baselines"]["mean_colour"]["mean"]["psnr"] + 3
    assert 0 < scores["mean"]["ssim"] < 1


def test_scores_without_weights_are_left_out_with_the_file_that_they_want(project: Pipeline) -> None:
    scores = scores_of(project)
    missing = {name: scores["left_out"].get(name, "") for name, value in scores["mean"].items() if value is None}
    assert set(missing) == {"lpips_alex", "lpips_vgg", "niqe"}
    assert all("missing, see weights/README.md" in reason for reason in missing.values())


def test_renders_are_of_the_test_views_at_their_size(project: Pipeline) -> None:
    scene = Scene.load(project.product("estimate_poses@tiny"))
    renders = project.product("render_views@tiny.small")
    assert sorted(path.stem for path in (renders / "test").iterdir()) == list(scene.test)
    for name in scene.test:
        camera = scene.camera(name, "full")
        assert read_image(renders / "test" / f"{name}.png").shape == (camera.height, camera.width, 3)
    film = cv2.VideoCapture(str(renders / "path.mp4"))
    assert film.get(cv2.CAP_PROP_FRAME_COUNT) == 2


def test_the_report_shows_the_trial(project: Pipeline) -> None:
    page = (project.product("write_report") / "index.html").read_text()
    assert "tiny" in page
    assert "small" in page
    assert "data:image/jpeg;base64," in page


def test_test_views_leave_no_trace_in_what_is_trained(
    project: Pipeline, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With noise for their pixels, all that is carved and trained stays the same to the last bit."""
    other = Pipeline(*vars(toyproject.copy(project, tmp_path)).values())
    monkeypatch.chdir(other.root)
    test = Scene.load(project.product("estimate_poses@tiny")).test
    pipelineproject.spoil(other, "cut_tiles@tiny", list(test))
    steps = ("carve_space", "gather_views", "pretrain_codebook", "fit_encoder", "train_joint")
    for stage in [stage for stage in STAGES if step_of(stage) in steps]:
        shutil.rmtree(other.product(stage))
        assert run(*other.command(stage)[1:]).status == 0
        for path in project.product(stage).glob("*.safetensors"):
            assert (other.product(stage) / path.name).read_bytes() == path.read_bytes(), f"{stage}: {path.name}"


def test_a_step_whose_product_changed_has_another_version(project: Pipeline) -> None:
    """The first stage that changed is to blame; what follows it follows from it."""
    recorded, made = json.loads(fingerprints.RECORD.read_text()), fingerprints.measure(project)
    rewrite = "then run `python tests/fingerprints.py` and commit tests/fingerprints.json"
    assert list(recorded) == list(made), f"the stages are others: {rewrite}"
    for stage, values in made.items():
        assert values["VERSION"] == recorded[stage]["VERSION"], f"VERSION of {script_of(stage)} was changed: {rewrite}"
    for stage, values in made.items():
        changed = "; ".join(fingerprints.difference(recorded[stage], values))
        assert not changed, f"{stage} makes something else ({changed}): raise VERSION in {script_of(stage)}, {rewrite}"


def test_a_difference_counts_beyond_the_tolerance() -> None:
    before = {"VERSION": 1, "psnr": 20.0, "kind": "bounded", "views": 3}
    assert fingerprints.difference(before, before | {"VERSION": 2, "psnr": 20.1}) == []
    assert fingerprints.difference(before, before | {"psnr": 21.0, "kind": "forward"}) == [
        "psnr: 20.0 -> 21.0",
        "kind: bounded -> forward",
    ]
    assert fingerprints.difference({"views": 3}, {}) == ["views: 3 -> absent"]


def script_of(stage: str) -> str:
    return f"steps/{step_of(stage)}.py"


# --- refusals ---------------------------------------------------------------------------------------------------------


def assert_refused(done: Done, *words: str) -> None:
    """Exit status 2 and one line on standard error, which holds the words; nothing else."""
    assert done.status == 2, done.stderr
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert all(word in done.stderr for word in words), done.stderr


@pytest.fixture
def capture(project: Pipeline) -> Iterator[Path]:
    """A capture without photos, inside the project."""
    folder = project.path("data/captures/bad")
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def test_no_photos(project: Pipeline, try_step: Run, capture: Path) -> None:
    assert_refused(try_step("ingest_photos", capture=capture, config=CAPTURE), str(capture), "photos")


def test_no_capture(project: Pipeline, try_step: Run, capture: Path) -> None:
    assert_refused(try_step("ingest_photos", capture=capture / "x", config=CAPTURE), f"{capture / 'x'}: no such")


def test_too_many_broken_photos(project: Pipeline, try_step: Run, capture: Path) -> None:
    for name in PHOTOS[:4]:
        whole = project.path(f"data/captures/tiny/{name}").read_bytes()
        (capture / name).write_bytes(whole if name < PHOTOS[2] else whole[:1000])
    done = try_step("ingest_photos", capture=capture, config=CAPTURE)
    assert done.status == 2
    *left_out, line = done.stderr.splitlines()
    assert [words in said for words, said in zip(PHOTOS[2:4], left_out, strict=True)] == [True, True]
    assert f"{capture}: 2 of 4 photos are usable, need 3 ({PHOTOS[2]}: broken" in line


def test_one_broken_photo_is_left_out_and_counted(project: Pipeline, try_step: Run, capture: Path) -> None:
    for name in PHOTOS[:4]:
        shutil.copy(project.path(f"data/captures/tiny/{name}"), capture)
    (capture / PHOTOS[0]).write_bytes(b"")
    done = try_step("ingest_photos", capture=capture, config=CAPTURE)
    assert done.status == 0
    assert f"{PHOTOS[0]} left out: empty file" in done.stderr
    assert "3 photos, 1 left out" in done.stderr


def test_photos_of_nothing(project: Pipeline, try_step: Run, capture: Path, tmp_path: Path) -> None:
    """Noise has features, but none that match: every attempt is told, and then what to do."""
    random = np.random.default_rng(0)
    for name in "abc":
        write_image(capture / f"{name}.png", random.integers(0, 256, (240, 320, 3), np.uint8))
    config = tmp_path / "bad.yaml"
    config.write_text("ingest: {}\nposes: {features: 200}\nscene: {}\n")
    made = try_step("ingest_photos", capture=capture, config=config, out=tmp_path / "photos")
    assert made.status == 0, made.stderr
    done = try_step("estimate_poses", capture=capture, photos=tmp_path / "photos", config=config)
    assert done.status == 2
    *_, line = done.stderr.splitlines()
    assert "Traceback" not in done.stderr
    assert "under 60% of 3 photos could be placed" in line
    assert "take sharp, textured photos of one place" in line


BAD_VALUES = {
    "ingest_photos": (CAPTURE, "ingest", {"capture": "data/captures/tiny"}),
    "estimate_poses": (CAPTURE, "poses", {"capture": "data/captures/tiny", "photos": "data/scenes/tiny/photos"}),
    "carve_space": (CAPTURE, "space", {"scene": SCENE, "tiles": TILES}),
    "pretrain_codebook": (
        "configs/codebooks/small.yaml",
        "codebook",
        {"views": "data/codebooks/tiny/views", "pipeline": "configs/pipeline.yaml", "resume": "r"},
    ),
    "fit_encoder": (RECIPE, "encoder", {"scene": SCENE, "tiles": TILES, "space": SPACE, "resume": "r"}),
    "train_joint": (
        RECIPE,
        "joint",
        {"encoder": f"{TRIAL}/encoder", "scene": SCENE, "tiles": TILES, "space": SPACE, "resume": "r"},
    ),
    "render_views": (
        RECIPE,
        "render",
        {
            "model": f"{TRIAL}/model",
            "encoder": f"{TRIAL}/encoder",
            "scene": SCENE,
            "space": SPACE,
            "tiles": TILES,
        },
    ),
    "score_renders": (
        "configs/pipeline.yaml",
        "score",
        {
            "renders": f"{TRIAL}/renders",
            "scene": SCENE,
            "space": SPACE,
            "weights": "weights",
            "out": "tried/tiny/small/scores",
        },
    ),
}


@pytest.mark.parametrize("step", BAD_VALUES)
def test_an_unknown_key(project: Pipeline, try_step: Run, tmp_path: Path, step: str) -> None:
    config, section, options = BAD_VALUES[step]
    content = yaml.safe_load(project.path(config).read_text())
    content[section]["sharpen"] = 1
    bad = tmp_path / "bad.yaml"
    bad.write_text(yaml.safe_dump(content))
    option = "recipe" if config == RECIPE else "config"
    assert_refused(try_step(step, **options, **{option: bad}), f"{bad}: {section}: sharpen: unknown key; known here")


def test_a_name_that_leaves_its_folder(project: Pipeline, try_step: Run, tmp_path: Path) -> None:
    config = tmp_path / "pipeline.yaml"
    config.write_text("trials: {x: {capture: ../tiny, recipe: small, encoder: small}}\ncodebooks: {}\n")
    done = try_step("write_report", trials="data/trials", codebooks="data/codebooks", config=config)
    assert_refused(done, "capture name '../tiny'", "use up to 64 letters")


def test_a_log_that_climbs_out_of_its_folder(project: Pipeline, try_step: Run) -> None:
    done = try_step(
        "write_report", log="data/trials/../x", trials="data/trials", codebooks="data/codebooks", config="x"
    )
    assert_refused(done, "data/trials/../x: a name in configs/pipeline.yaml leads out of its folder")


def test_a_step_before_its_time(project: Pipeline, try_step: Run) -> None:
    known = {"encoder": f"{TRIAL}/encoder", "scene": SCENE, "space": SPACE, "tiles": TILES, "recipe": RECIPE}
    done = try_step("render_views", model="data/absent", **known)
    assert_refused(done, "data/absent: no such file or folder; run the step that makes it")


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("step", ["ingest_photos", "cut_tiles", "fit_encoder"])
def test_a_full_disk(project: Pipeline, try_step: Run, small_disk: Path, step: str, full: bool) -> None:
    """Either it is full before the step begins, or the product does not fit."""
    options = {
        "ingest_photos": {"capture": "data/captures/tiny", "config": CAPTURE},
        "cut_tiles": {"scene": SCENE},
        "fit_encoder": {"scene": SCENE, "tiles": TILES, "space": SPACE, "recipe": RECIPE, "resume": small_disk / "r"},
    }[step]
    if full:
        with contextlib.suppress(OSError):
            (small_disk / "filler").write_bytes(bytes(1 << 20))
    done = try_step(step, **options, out=small_disk / "out", log=small_disk / "log")
    assert done.status == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "disk" in done.stderr.splitlines()[-1]
    assert "full" in done.stderr.splitlines()[-1]
