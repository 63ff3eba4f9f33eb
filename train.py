"""Train a model: `accelerate launch train.py --config configs/NAME.yaml [section.key=value ...]`."""

import argparse
import sys

from textvae.config_file import load_config
from textvae.training.loop import train


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, metavar="FILE", help="YAML configuration")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="override single settings")
    arguments = parser.parse_args()
    try:
        train(load_config(arguments.config, arguments.overrides))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
