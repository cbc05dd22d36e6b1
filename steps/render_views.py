"""A trained model -> pictures of the test views, their depth, and a film; and what its encoder alone makes of them."""

from __future__ import annotations

import argparse
from pathlib import Path

from loupe import tracking
from loupe.config import read_section
from loupe.render import RenderConfig, render_enlarged, render_views
from loupe.trial import Model, load_setting

VERSION = 7


def main() -> None:
    """Read the arguments and run the step."""
    parser = argparse.ArgumentParser(description=__doc__)
    for option, meaning in (
        ("--model", "what train_joint made"),
        ("--encoder", "what its training began with"),
        ("--scene", "what estimate_poses made"),
        ("--space", "what carve_space made"),
        ("--tiles", "what cut_tiles made: photos for methods that take colours from them"),
        ("--recipe", "the recipe (YAML)"),
        ("--out", "folder for the renders"),
        ("--log", "folder for the log"),
    ):
        parser.add_argument(option, type=Path, required=True, help=meaning)
    given = parser.parse_args()
    instance = f"{given.scene.parent.name}.{given.recipe.stem}"
    inputs = [given.model, given.encoder, given.scene, given.space]
    with tracking.step("render_views", instance, given.log, inputs=inputs) as log:
        config = read_section(given.recipe, "render", RenderConfig)
        log.parameters({"render": config.model_dump(mode="json")})
        setting = load_setting(given.scene, given.space, sources=given.tiles)
        method = Model.load(given.model).method_for(setting)
        made = render_views(method, setting.scene, setting.space, config, given.out, log.progress)
        if not setting.scene.moves:
            encoder = Model.load(given.encoder).without_decoder().method_for(setting)
            render_enlarged(encoder, setting.scene, given.out, log.progress)
        for name, picture in made.pictures.items():
            log.picture(name, picture)
        if made.warping_error is not None:
            log.summary({"warping_error": made.warping_error})
            log.say(f"warping error of the film: {made.warping_error:.3f} levels of 255")


if __name__ == "__main__":
    main()
