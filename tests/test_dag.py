"""The real `dvc.yaml` against the rest of the repository, and what the Snakefile is told of it."""

import re
from functools import reduce
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo
from dvc.stage import PipelineStage
from snakemake_interface_common.exceptions import WorkflowError

from benchmarks.captures import steps as steps_of_benchmark
from workflow import dag

ROOT = Path(__file__).parents[1]
STEPS = [
    "ingest_photos",
    "estimate_poses",
    "cut_tiles",
    "carve_space",
    "gather_views",
    "pretrain_codebook",
    "fit_encoder",
    "graft_decoder",
    "graft_codebook",
    "train_joint",
    "render_views",
    "score_renders",
    "write_report",
]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")  # names stand in shell commands and in paths


@pytest.fixture(scope="module")
def repo() -> Repo:
    return Repo(str(ROOT))


@pytest.fixture(scope="module")
def stages(repo: Repo) -> dict[str, PipelineStage]:
    return {stage.name: stage for stage in repo.index.stages if isinstance(stage, PipelineStage)}


@pytest.fixture(scope="module")
def rules(repo: Repo) -> dict[str, dag.Rule]:
    return {rule.name: rule for rule in dag.rules(repo)}


@pytest.fixture(scope="module")
def pipeline() -> dict[str, dict]:
    return yaml.safe_load((ROOT / "configs/pipeline.yaml").read_text())


def step_of(name: str) -> str:
    return name.partition("@")[0]


def within(stage: PipelineStage, paths: list) -> list[str]:
    return [Path(path.fs_path).relative_to(stage.repo.root_dir).as_posix() for path in paths]


def test_there_is_one_stage_per_step_and_instance(stages: dict[str, PipelineStage], pipeline: dict[str, dict]) -> None:
    trials, captures = list(pipeline["trials"]), pipeline["captures"]
    expected = {
        **dict.fromkeys(["ingest_photos", "estimate_poses", "cut_tiles", "carve_space"], captures),
        "gather_views": list(pipeline["codebook_captures"]),
        "pretrain_codebook": list(pipeline["codebooks"]),
        "fit_encoder": list(pipeline["encoders"]),
        "graft_decoder": list(pipeline["grafts"]),
        "graft_codebook": list(pipeline["codebook_grafts"]),
        **dict.fromkeys(["train_joint", "render_views", "score_renders"], trials),
    }
    names = {f"{step}@{instance}" for step, instances in expected.items() for instance in instances}
    assert set(stages) == names | {"write_report"}
    assert list(expected) == [step for step in STEPS if step != "write_report"]


@pytest.mark.parametrize("step", STEPS)
def test_a_stage_runs_its_own_script_and_depends_on_it(step: str, stages: dict[str, PipelineStage]) -> None:
    script = f"steps/{step}.py"
    assert (ROOT / script).exists()
    for name, stage in stages.items():
        if step_of(name) == step:
            assert stage.cmd.startswith(f"python {script} ")
            assert script in within(stage, stage.deps)


def test_a_stage_depends_on_all_that_its_command_reads(stages: dict[str, PipelineStage]) -> None:
    written = {"out", "log", "resume"}
    for stage in stages.values():
        options = dict(re.findall(r"--(\w+) (\S+)", stage.cmd))
        makes = {*written, "reference"} if step_of(stage.name) == "ingest_photos" else written
        assert {path for option, path in options.items() if option not in makes} <= set(within(stage, stage.deps))
        made = [options[option] for option in ("out", "reference", "log") if option in makes and option in options]
        assert made == within(stage, stage.outs), stage.name
        assert step_of(stage.name) in options["log"].split("/")
        if "resume" in options:
            assert options["resume"] == f"data/resume/{stage.name.replace('@', '/')}"


def test_the_benchmark_of_captures_gives_steps_what_the_workflow_gives_them(
    stages: dict[str, PipelineStage], tmp_path: Path
) -> None:
    for step, (_, arguments) in steps_of_benchmark(tmp_path / "capture", tmp_path).items():
        given = {word for word in arguments if word.startswith("--")} | {"--out", "--log"}
        stage = next(stage for name, stage in stages.items() if step_of(name) == step)
        assert given == set(re.findall(r"--[a-z]+", stage.cmd)), step


def test_parameters_are_sections_of_files_that_exist(stages: dict[str, PipelineStage]) -> None:
    for stage in stages.values():
        for dependency in stage.params:
            content = yaml.safe_load(Path(dependency.fs_path).read_text())
            for section in dependency.params:
                assert reduce(lambda part, key: part[key], section.split("."), content) is not None, stage.name


def test_a_trial_is_named_after_its_capture_and_recipe(pipeline: dict[str, dict]) -> None:
    for key, trial in [*pipeline["trials"].items(), *pipeline["encoders"].items()]:
        assert key == f"{trial['capture']}.{trial['recipe']}"
        assert trial["capture"] in pipeline["captures"]
    for key, pair in pipeline["codebook_captures"].items():
        assert key == f"{pair['codebook']}.{pair['capture']}"
        assert pair["capture"] in pipeline["captures"]


def test_a_trial_begins_with_an_encoder_of_its_own_kind(pipeline: dict[str, dict]) -> None:
    """Steps would say so too, but after the encoder has been trained."""
    listed = [*pipeline["grafts"].values(), *pipeline["codebook_grafts"].values()]
    grafts = {f"{graft['capture']}.{graft['name']}": graft["encoder"] for graft in listed}
    for trial in pipeline["trials"].values():
        trial["encoder"] = grafts.get(f"{trial['capture']}.{trial['encoder']}", trial["encoder"])
        assert f"{trial['capture']}.{trial['encoder']}" in pipeline["encoders"]
        own, taken = (
            yaml.safe_load((ROOT / f"configs/recipes/{name}.yaml").read_text())["encoder"]
            for name in (trial["recipe"], trial["encoder"])
        )
        assert own == taken


def test_names_are_safe_in_paths_and_commands(pipeline: dict[str, dict]) -> None:
    codebooks = pipeline["codebooks"]
    named = [*pipeline["captures"], *codebooks, *(codebook["config"] for codebook in codebooks.values())]
    named += [
        name
        for group in ("encoders", "grafts", "codebook_grafts", "trials", "codebook_captures")
        for item in pipeline[group].values()
        for path in item.values()
        for name in path.split("/")
    ]
    assert [name for name in named if not NAME.fullmatch(name)] == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("captures: [../x]", "capture name '../x'"),
        ("captures: demo", "captures: Input should be a valid list"),
        ("encoders: {a: {capture: a, recipe: -b}}", "recipe name '-b'"),
        ("trials: {a: {capture: a, recipe: /b, encoder: c}}", "recipe name '/b'"),
        ("trials: {a: {capture: a, recipe: b}}", "trials.a.encoder: Field required"),
        ("grafts: {a: {capture: a, name: b, encoder: c, init_from: ../d}}", "init_from name '..'"),
        ("codebook_grafts: {a: {capture: a, name: b, encoder: c, codebook: ../d}}", "codebook name '../d'"),
        ("trials: {../a: {capture: a, recipe: b, encoder: c}}", "entry name ''"),
        ("encoders: {a.-rf: {capture: a, recipe: b}}", "entry name '-rf'"),
        ('grafts: {"a.b\\nc": {capture: a, name: b, encoder: c, init_from: d/e}}', r"entry name 'b\nc'"),
        ("codebook_captures: {a.b: {codebook: x, capture: b}}", "codebook_captures.a.b: no codebook 'x' in codebooks"),
        ("codebook_captures: {-a: {codebook: x, capture: b}}", "entry name '-a'"),
        ("codebooks: {..: {captures: [a], config: b}}", "codebook name '..'"),
        ("codebooks: {a: {captures: [../b], config: b}}", "capture name '../b'"),
        ("codebooks: {a: {config: b}}", "codebooks.a.captures: Field required"),
        ("codebooks: {a: {captures: [], config: b}}", "codebooks.a: captures is empty; name at least one"),
        ("codebooks: {a: {captures: [b, b], config: b}}", "codebooks.a: captures names one twice"),
        (
            "codebooks: {a: {captures: [b], config: c}}",
            "codebooks.a: capture 'b' needs a line in codebook_captures: a.b: { codebook: a, capture: b }",
        ),
        (
            "codebooks: {a: {captures: [b], config: c}}\ncodebook_captures: {a.d: {codebook: a, capture: d}}",
            "codebook_captures.a.d: codebooks.a does not list capture 'd'",
        ),
        (
            "encoders: {a.b: {capture: a, recipe: b}}\n"
            "codebook_grafts: {a.x: {capture: a, name: b, encoder: b, codebook: d}}",
            "codebook_grafts.a.x: encoders.a.b makes data/trials/a/b/encoder already; choose another name",
        ),
        ("recipes: [a]", "recipes: unknown key; known here: captures, encoders, grafts, codebook_grafts, trials,"),
    ],
)
def test_a_bad_pipeline_is_one_line(tmp_path: Path, line: str, words: str) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/pipeline.yaml").write_text(line)
    repo = Repo.init(str(tmp_path), no_scm=True)
    with pytest.raises(WorkflowError, match=re.escape(f"configs/pipeline.yaml: {words}")):
        dag.rules(repo)


def test_a_trial_stays_within_a_small_machine(rules: dict[str, dag.Rule]) -> None:
    for rule in rules.values():
        assert {"mem_mb", "runtime"} <= set(rule.resources)
        # At 12 megapixels, 4K-NeRF's decoder takes 5 GB and pyiqa's NIQE 6 GB.
        most = {"score_renders": 8000, "train_joint": 6000, "render_views": 6000}.get(step_of(rule.name), 4000)
        assert rule.resources["mem_mb"](None, attempt=1) <= most
        assert rule.resources["mem_mb"](None, attempt=3) == 3 * rule.resources["mem_mb"](None, attempt=1)
        assert ("gpu" in rule.resources) == (rule.resources.get("slurm_partition") == "gpu")


def test_the_report_reads_every_output_below_the_folders_it_depends_on(rules: dict[str, dag.Rule]) -> None:
    outputs = {path for rule in rules.values() for path in rule.outputs}
    below = {path for path in outputs if path.startswith(("data/trials/", "data/codebooks/"))}
    assert set(rules["write_report"].made) == below
    assert rules["write_report"].sources == ["steps/write_report.py", "configs/pipeline.yaml"]


def test_a_rule_reads_the_outputs_it_depends_on_and_every_source(
    rules: dict[str, dag.Rule], pipeline: dict[str, dict]
) -> None:
    for name, rule in rules.items():
        assert not set(rule.made) & set(rule.sources)
        assert all((ROOT / source).exists() for source in rule.sources if not source.startswith("data/captures/")), name
    trial = next(rule for name, rule in rules.items() if step_of(name) == "train_joint")
    entry = pipeline["trials"][trial.name.partition("@")[2]]
    capture, encoder = entry["capture"], entry["encoder"]
    scene = f"data/scenes/{capture}"
    assert set(trial.made) == {f"data/trials/{capture}/{encoder}/encoder"} | {
        f"{scene}/{part}" for part in ("scene", "tiles", "space")
    }
    assert any(source.startswith("configs/recipes/") for source in trial.sources)
