"""The training views of one capture or several -> a codebook: a VQ-VAE of small squares of pixels."""

from __future__ import annotations

import argparse
from pathlib import Path

from loupe import checkpoint, tracking
from loupe.capture_views import load_captures
from loupe.codebook import CodebookConfig
from loupe.config import read_section
from loupe.pipeline import read_codebook
from loupe.pretraining import pretrain_codebook

VERSION = 2


def main() -> None:
    """Read the arguments and run the step."""
    parser = argparse.ArgumentParser(description=__doc__)
    for option, meaning in (
        ("--views", "folder of what gather_views made of each capture"),
        ("--pipeline", "the pipeline's configuration (YAML), which lists the captures"),
        ("--config", "the codebook's configuration (YAML)"),
        ("--out", "folder for the codebook"),
        ("--log", "folder for the log"),
        ("--resume", "folder for checkpoints"),
    ):
        parser.add_argument(option, type=Path, required=True, help=meaning)
    given = parser.parse_args()
    name = given.out.parent.name
    with tracking.step("pretrain_codebook", name, given.log, inputs=[given.views, given.config]) as log:
        config = read_section(given.config, "codebook", CodebookConfig)
        captures = load_captures(given.views, read_codebook(given.pipeline, name).captures)
        made = pretrain_codebook(captures, config, given.resume, log.progress)
        given.out.mkdir(parents=True, exist_ok=True)
        made.save(given.out)
        for view, picture in made.pictures.items():
            log.picture(view, picture)
        log.summary(made.scores)
        for capture, scores in made.captures.items():
            log.summary({f"{capture}.{key}": value for key, value in scores.items() if key != "views"})
        log.say(", ".join(f"{key} {value}" for key, value in made.scores.items()))
        checkpoint.clear(given.resume)


if __name__ == "__main__":
    main()
