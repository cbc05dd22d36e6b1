"""An encoder and a pretrained codebook -> the encoder with that codebook, for a trial of VQ-NeRF to begin with."""

from __future__ import annotations

import argparse
from pathlib import Path

from loupe import tracking
from loupe.codebook import Codebook
from loupe.scene import Scene
from loupe.tiles import Tiles
from loupe.trial import Model, graft_codebook

VERSION = 1


def main() -> None:
    """Read the arguments and run the step."""
    parser = argparse.ArgumentParser(description=__doc__)
    for option, meaning in (
        ("--encoder", "what fit_encoder made"),
        ("--codebook", "what pretrain_codebook made"),
        ("--scene", "what estimate_poses made"),
        ("--tiles", "what cut_tiles made"),
        ("--out", "folder for the encoder"),
        ("--log", "folder for the log"),
    ):
        parser.add_argument(option, type=Path, required=True, help=meaning)
    given = parser.parse_args()
    instance = f"{given.out.parents[1].name}.{given.out.parent.name}"
    inputs = [given.encoder, given.codebook, given.scene, given.tiles]
    with tracking.step("graft_codebook", instance, given.log, inputs=inputs) as log:
        codebook = Codebook.load(given.codebook)
        codebook.refuse(Tiles(given.tiles), Scene.load(given.scene).test)
        graft_codebook(Model.load(given.encoder), codebook).save(given.out)
        log.say(f"the codebook {given.codebook} beside {given.encoder}")


if __name__ == "__main__":
    main()
