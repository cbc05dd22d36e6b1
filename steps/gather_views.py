"""A capture's scene and tiles -> its views at full resolution and their split, for a codebook to be trained on."""

from __future__ import annotations

import argparse
from pathlib import Path

from loupe import tracking
from loupe.capture_views import gather_views
from loupe.scene import Scene

VERSION = 1


def main() -> None:
    """Read the arguments and run the step."""
    parser = argparse.ArgumentParser(description=__doc__)
    for option, meaning in (
        ("--scene", "what estimate_poses made"),
        ("--tiles", "what cut_tiles made"),
        ("--out", "folder for the views"),
        ("--log", "folder for the log"),
    ):
        parser.add_argument(option, type=Path, required=True, help=meaning)
    given = parser.parse_args()
    instance = f"{given.out.parents[1].name}.{given.out.name}"
    with tracking.step("gather_views", instance, given.log, inputs=[given.scene, given.tiles]) as log:
        scene = Scene.load(given.scene)
        given.out.mkdir(parents=True, exist_ok=True)
        size = gather_views(scene, given.tiles, given.out)
        log.summary({"train": len(scene.train), "test": len(scene.test), "bytes": size})
        log.say(f"{len(scene.train)} training and {len(scene.test)} test views, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
