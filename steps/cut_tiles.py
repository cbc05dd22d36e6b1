"""A scene's pictures -> decoded pixels at both resolutions, for random access."""

from __future__ import annotations

import argparse
from pathlib import Path

from loupe import tracking
from loupe.scene import Scene
from loupe.tiles import cut_tiles

VERSION = 2


def main() -> None:
    """Read the arguments and run the step."""
    parser = argparse.ArgumentParser(description=__doc__)
    for option, meaning in (
        ("--scene", "what estimate_poses made"),
        ("--out", "folder for the tiles"),
        ("--log", "folder for the log"),
    ):
        parser.add_argument(option, type=Path, required=True, help=meaning)
    given = parser.parse_args()
    with tracking.step("cut_tiles", given.scene.parent.name, given.log, inputs=[given.scene]) as log:
        scene = Scene.load(given.scene)
        given.out.mkdir(parents=True, exist_ok=True)
        size = cut_tiles(scene, given.out)
        log.summary({"views": len(scene.views), "bytes": size})
        log.say(f"{len(scene.views)} views, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
