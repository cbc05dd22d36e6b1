"""The training views of a scene -> a codebook: a VQ-VAE of small squares of pixels."""

from __future__ import annotations

import argparse
from pathlib import Path

from loupe import checkpoint, tracking
from loupe.codebook import CodebookConfig
from loupe.config import read_section
from loupe.pretraining import pretrain_codebook
from loupe.scene import Scene
from loupe.tiles import Tiles

VERSION = 1


def main() -> None:
    """Read the arguments and run the step."""
    parser = argparse.ArgumentParser(description=__doc__)
    for option, meaning in (
        ("--scene", "what estimate_poses made"),
        ("--tiles", "what cut_tiles made"),
        ("--config", "the codebook's configuration (YAML)"),
        ("--out", "folder for the codebook"),
        ("--log", "folder for the log"),
        ("--resume", "folder for checkpoints"),
    ):
        parser.add_argument(option, type=Path, required=True, help=meaning)
    given = parser.parse_args()
    inputs = [given.scene, given.tiles, given.config]
    with tracking.step("pretrain_codebook", given.out.parent.name, given.log, inputs=inputs) as log:
        config = read_section(given.config, "codebook", CodebookConfig)
        scene, tiles = Scene.load(given.scene), Tiles(given.tiles)
        made = pretrain_codebook(scene, tiles, config, given.resume, log.progress)
        given.out.mkdir(parents=True, exist_ok=True)
        made.save(given.out)
        for name, picture in made.pictures.items():
            log.picture(name, picture)
        log.summary(made.scores)
        log.say(", ".join(f"{key} {value}" for key, value in made.scores.items()))
        checkpoint.clear(given.resume)


if __name__ == "__main__":
    main()
