"""A scene and its tiles -> the box that fields cover, which of it is empty, and points on its surfaces."""

from __future__ import annotations

import argparse
from pathlib import Path

from loupe import tracking
from loupe.config import read_section
from loupe.occupancy import CarveConfig, carve_space
from loupe.scene import Scene
from loupe.silhouettes import carve_masks
from loupe.tiles import Tiles

VERSION = 3


def main() -> None:
    """Read the arguments and run the step."""
    parser = argparse.ArgumentParser(description=__doc__)
    for option, meaning in (
        ("--scene", "what estimate_poses made"),
        ("--tiles", "what cut_tiles made"),
        ("--config", "the capture's configuration (YAML)"),
        ("--out", "folder for the space"),
        ("--log", "folder for the log"),
    ):
        parser.add_argument(option, type=Path, required=True, help=meaning)
    given = parser.parse_args()
    inputs = [given.scene, given.tiles, given.config]
    with tracking.step("carve_space", given.config.stem, given.log, inputs=inputs) as log:
        config = read_section(given.config, "space", CarveConfig)
        log.parameters({"space": config.model_dump()})
        scene = Scene.load(given.scene)
        tiles = Tiles(given.tiles)
        by_masks = config.by == "masks" or (config.by == "auto" and scene.moves)
        made = carve_masks(scene, tiles, config, log.say) if by_masks else carve_space(scene, tiles, config)
        given.out.mkdir(parents=True, exist_ok=True)
        made.save(given.out)
        log.picture("points", made.cloud.drawn(scene.camera(scene.test[0], "low")))
        log.summary({"kind": made.space.kind, "occupied": made.occupancy.share, "points": len(made.cloud.xyz)})
        log.say(f"{made.space.kind} space, {made.occupancy.share:.1%} occupied, {len(made.cloud.xyz)} points")


if __name__ == "__main__":
    main()
