"""Photos as taken -> upright 8-bit pictures and photos.json, and a page on them in the log."""

from __future__ import annotations

import argparse
from pathlib import Path

from loupe import tracking
from loupe.config import read_section
from loupe.ingestion import IngestConfig, ingest
from loupe.report.photos import render_photos
from loupe.sources import LAYOUTS, recognise

VERSION = 4


def main() -> None:
    """Read the arguments and run the step."""
    parser = argparse.ArgumentParser(description=__doc__)
    for option, meaning in (
        ("--capture", "folder of photos; never written to"),
        ("--config", "the capture's configuration (YAML)"),
        ("--out", "folder for the pictures"),
        ("--reference", "folder for what is sealed, if anything is"),
        ("--log", "folder for the log"),
    ):
        parser.add_argument(option, type=Path, required=True, help=meaning)
    given = parser.parse_args()
    inputs = [given.capture, given.config]
    with tracking.step("ingest_photos", given.config.stem, given.log, inputs=inputs) as log:
        config = read_section(given.config, "ingest", IngestConfig)
        log.parameters({"ingest": config.model_dump()})
        shots = LAYOUTS[recognise(given.capture)].shots(given.capture)
        given.out.mkdir(parents=True, exist_ok=True)
        given.reference.mkdir(parents=True, exist_ok=True)
        made = ingest(shots, config, given.out, log.say, given.reference)
        # DVC warns of folders that hold nothing.
        (given.reference / "factor.txt").write_text(f"{config.seal}\n", encoding="ascii")
        log.picture("photos", made.contact_sheet)
        log.page("photos", render_photos(given.config.stem, made))
        log.summary({"photos": len(made.photos), "left_out": len(made.left_out), "alike": len(made.alike)})
        log.say(f"{len(made.photos)} photos, {len(made.left_out)} left out")


if __name__ == "__main__":
    main()
