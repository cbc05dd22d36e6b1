"""A scene and its tiles -> the box that fields cover, which of it is empty, and points on its surfaces."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from loupe import tracking
from loupe.config import read_section
from loupe.occupancy import CarveConfig, carve_space
from loupe.scene import Scene
from loupe.silhouettes import carve_masks
from loupe.steplog import Log
from loupe.surroundings import SURROUNDINGS, find_surroundings
from loupe.tiles import Tiles

VERSION = 4


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
        by_masks = config.by == "masks" or (config.by == "auto" and (scene.moves or scene.masks == "cut"))
        made = carve_masks(scene, tiles, config, log.say) if by_masks else carve_space(scene, tiles, config)
        given.out.mkdir(parents=True, exist_ok=True)
        made.save(given.out)
        if by_masks and scene.masks == "carve":
            _look_around(scene, tiles, config, given.out / SURROUNDINGS, log)
        log.picture("points", made.cloud.drawn(scene.camera(scene.test[0], "low")))
        log.summary({"kind": made.space.kind, "occupied": made.occupancy.share, "points": len(made.cloud.xyz)})
        log.say(f"{made.space.kind} space, {made.occupancy.share:.1%} occupied, {len(made.cloud.xyz)} points")


def _look_around(scene: Scene, tiles: Tiles, config: CarveConfig, out: Path, log: Log) -> None:
    """What stands still around the subject, and a picture of it."""
    found = find_surroundings(scene, tiles, config, out)
    if found is None:
        shutil.rmtree(out)
        log.say("the clean plates have no surface in common: what is around the subject stays unknown")
        return
    found.save(out)
    log.picture("surroundings", found.cloud.drawn(scene.camera(scene.test[0], "low")))
    log.summary({"surroundings": len(found.cloud.xyz), "stands": len(found.gains)})
    log.say(f"{len(found.cloud.xyz)} points around the subject, by the clean plates of {len(found.gains)} stands")


if __name__ == "__main__":
    main()
