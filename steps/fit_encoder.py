"""A scene's low-resolution pixels -> an encoder: the recipe's radiance field, fitted at low resolution."""

from __future__ import annotations

import argparse
from pathlib import Path

from loupe import checkpoint, tracking
from loupe.trial import load_setting, read_recipe, sample, train_phase

VERSION = 5


def main() -> None:
    """Read the arguments and run the step."""
    parser = argparse.ArgumentParser(description=__doc__)
    for option, meaning in (
        ("--scene", "what estimate_poses made"),
        ("--tiles", "what cut_tiles made"),
        ("--space", "what carve_space made"),
        ("--recipe", "the recipe (YAML)"),
        ("--out", "folder for the encoder"),
        ("--log", "folder for the log"),
        ("--resume", "folder for checkpoints"),
    ):
        parser.add_argument(option, type=Path, required=True, help=meaning)
    given = parser.parse_args()
    instance = f"{given.scene.parent.name}.{given.recipe.stem}"
    inputs = [given.scene, given.tiles, given.space]
    with tracking.step("fit_encoder", instance, given.log, inputs=inputs) as log:
        recipe = read_recipe(given.recipe, "encoder")
        log.parameters(recipe.content)
        setting = load_setting(given.scene, given.space, given.tiles)
        model = train_phase("encoder", recipe, setting, resume=given.resume, inputs=log.inputs, report=log.progress)
        model.save(given.out)
        picture, psnr = sample(model, setting, "low")
        log.picture("sample", picture)
        log.summary({"psnr": psnr})
        log.say(f"first test view: PSNR {psnr:.2f} dB at low resolution")
        checkpoint.clear(given.resume)


if __name__ == "__main__":
    main()
