"""Ingested photos -> a scene: cameras estimated by structure from motion, or those that came with the capture."""

from __future__ import annotations

import argparse
from pathlib import Path

from loupe import tracking
from loupe.config import read_section
from loupe.photos import read_photos
from loupe.plan import draw_plan
from loupe.poses import PosesConfig, SceneConfig, estimate_scene

VERSION = 5


def main() -> None:
    """Read the arguments and run the step."""
    parser = argparse.ArgumentParser(description=__doc__)
    for option, meaning in (
        ("--capture", "folder of photos as taken; given cameras lie there"),
        ("--photos", "what ingest_photos made"),
        ("--config", "the capture's configuration (YAML)"),
        ("--out", "folder for the scene"),
        ("--log", "folder for the log"),
    ):
        parser.add_argument(option, type=Path, required=True, help=meaning)
    given = parser.parse_args()
    inputs = [given.capture, given.photos, given.config]
    with tracking.step("estimate_poses", given.config.stem, given.log, inputs=inputs) as log:
        poses = read_section(given.config, "poses", PosesConfig)
        scene = read_section(given.config, "scene", SceneConfig)
        log.parameters({"poses": poses.model_dump(), "scene": scene.model_dump()})
        photos = given.photos, read_photos(given.photos)
        given.out.mkdir(parents=True, exist_ok=True)
        made = estimate_scene(given.capture, photos, poses, scene, given.out, log.say, log.scalars)
        log.picture("plan", draw_plan(made.scene))
        log.summary(
            {
                "views": len(made.scene.views),
                "unplaced": len(made.unplaced),
                "registered": made.attempt.registered,
                "points": made.attempt.points,
                "track_length": made.attempt.track_length,
                "reprojection_error": made.attempt.error,
                "source": made.scene.source,
            }
        )


if __name__ == "__main__":
    main()
