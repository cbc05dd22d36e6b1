"""All trials' scores, pictures and logs -> one page and one table of numbers."""

from __future__ import annotations

import argparse
from pathlib import Path

from loupe import tracking
from loupe.report.page import write_report

VERSION = 6


def main() -> None:
    """Read the arguments and run the step."""
    parser = argparse.ArgumentParser(description=__doc__)
    for option, meaning in (
        ("--trials", "folder of all trials"),
        ("--codebooks", "folder of all codebooks"),
        ("--config", "the pipeline's configuration (YAML), which lists them"),
        ("--out", "folder for index.html and scores.csv"),
        ("--log", "folder for the log"),
    ):
        parser.add_argument(option, type=Path, required=True, help=meaning)
    given = parser.parse_args()
    with tracking.step("write_report", "report", given.log, inputs=[given.config]) as log:
        given.out.mkdir(parents=True, exist_ok=True)
        scored = write_report(given.config, given.trials, given.codebooks, given.out, log.say)
        log.summary({"trials": scored})
        log.say(f"{given.out / 'index.html'}: {scored} trials")


if __name__ == "__main__":
    main()
