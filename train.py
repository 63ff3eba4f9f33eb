"""Train a model: `accelerate launch train.py --config configs/NAME.yaml [section.key=value ...]`."""

import argparse
import sys

from textvae.config_file import list_settings, load_config
from textvae.training.loop import train
from textvae.training.stopping import TrainingStopped

KEYS = """A setting is named section.key; a key may hold keys (objective.default.beta), a level is named by its name
(model.levels.document.latent_size, objective.levels.document.free_bits). All of them, with their defaults:
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"{KEYS}\n{list_settings()}".replace("%", "%%"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="YAML configuration")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="override single settings")
    arguments = parser.parse_args()
    try:
        train(load_config(arguments.config, arguments.overrides))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except TrainingStopped as stop:
        print(stop, file=sys.stderr)
        return 128 + stop.number
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
