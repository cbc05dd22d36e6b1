"""An encoder and another trial's model -> the encoder with that model's decoder, for a trial to begin with."""

from __future__ import annotations

import argparse
from pathlib import Path

from loupe import tracking
from loupe.trial import Model, graft

VERSION = 1


def main() -> None:
    """Read the arguments and run the step."""
    parser = argparse.ArgumentParser(description=__doc__)
    for option, meaning in (
        ("--encoder", "what fit_encoder made"),
        ("--init-from", "what train_joint made of another trial"),
        ("--out", "folder for the encoder"),
        ("--log", "folder for the log"),
    ):
        parser.add_argument(option, type=Path, required=True, help=meaning)
    given = parser.parse_args()
    instance = f"{given.out.parents[1].name}.{given.out.parent.name}"
    inputs = [given.encoder, given.init_from]
    with tracking.step("graft_decoder", instance, given.log, inputs=inputs) as log:
        made = graft(Model.load(given.encoder), Model.load(given.init_from))
        made.save(given.out)
        log.say(f"the decoder of {given.init_from} beside {given.encoder}")


if __name__ == "__main__":
    main()
