"""Renders of the test views + the photos -> scores, baselines on the same views, and pictures for the report."""

from __future__ import annotations

import argparse
from pathlib import Path

from loupe import tracking
from loupe.config import read_section
from loupe.scene import Scene
from loupe.scoring import ScoreConfig, save_scores, score_renders

VERSION = 3


def main() -> None:
    """Read the arguments and run the step."""
    parser = argparse.ArgumentParser(description=__doc__)
    for option, meaning in (
        ("--renders", "what render_views made"),
        ("--scene", "what estimate_poses made"),
        ("--space", "what carve_space made"),
        ("--reference", "what ingest_photos sealed"),
        ("--config", "the pipeline's configuration (YAML)"),
        ("--weights", "folder of weights that the user brought"),
        ("--out", "folder for the scores, <capture>/<recipe>/scores"),
        ("--log", "folder for the log"),
    ):
        parser.add_argument(option, type=Path, required=True, help=meaning)
    given = parser.parse_args()
    capture, recipe = given.out.resolve().parts[-3:-1]
    inputs = [given.renders, given.scene, given.space, given.config]
    with tracking.step("score_renders", f"{capture}.{recipe}", given.log, inputs=inputs) as log:
        config = read_section(given.config, "score", ScoreConfig)
        scene = Scene.load(given.scene)
        given.out.mkdir(parents=True, exist_ok=True)
        content = score_renders(
            given.renders, scene, given.space, given.reference, config, given.weights, given.out, log.say
        )
        save_scores(given.out, capture, recipe, content)
        in_box = content["box"]["mean"] if content["box"] else {}
        log.summary(content["mean"] | {f"box.{name}": value for name, value in in_box.items()})


if __name__ == "__main__":
    main()
