"""An encoder and a scene's full-resolution pixels -> a trained model."""

from __future__ import annotations

import argparse
from pathlib import Path

from loupe import checkpoint, tracking
from loupe.scene import Level
from loupe.trial import Model, load_setting, read_recipe, sample, train_phase

VERSION = 5


def main() -> None:
    """Read the arguments and run the step."""
    parser = argparse.ArgumentParser(description=__doc__)
    for option, meaning in (
        ("--encoder", "what fit_encoder made"),
        ("--scene", "what estimate_poses made"),
        ("--tiles", "what cut_tiles made"),
        ("--space", "what carve_space made"),
        ("--recipe", "the recipe (YAML)"),
        ("--out", "folder for the model"),
        ("--log", "folder for the log"),
        ("--resume", "folder for checkpoints"),
    ):
        parser.add_argument(option, type=Path, required=True, help=meaning)
    given = parser.parse_args()
    instance = f"{given.scene.parent.name}.{given.recipe.stem}"
    inputs = [given.encoder, given.scene, given.tiles, given.space]
    with tracking.step("train_joint", instance, given.log, inputs=inputs) as log:
        recipe = read_recipe(given.recipe, "joint")
        log.parameters(recipe.content)
        setting = load_setting(given.scene, given.space, given.tiles)
        encoder = Model.load(given.encoder)
        model = train_phase(
            "joint", recipe, setting, resume=given.resume, inputs=log.inputs, report=log.progress, encoder=encoder
        )
        model.save(given.out)
        level: Level = "low" if setting.scene.sealed else "full"
        picture, psnr = sample(model, setting, level)
        log.picture("sample", picture)
        log.summary({"psnr": psnr})
        log.say(f"first test view: PSNR {psnr:.2f} dB at {level} resolution")
        checkpoint.clear(given.resume)


if __name__ == "__main__":
    main()
