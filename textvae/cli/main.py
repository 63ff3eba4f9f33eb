"""The `textvae` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from textvae.cli import embed, generate, interpolate, prepare, reconstruct, search

COMMANDS = (prepare, generate, interpolate, reconstruct, embed, search)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 with one line on standard error for what the user can mend."""
    parsed = build_parser().parse_args(arguments)
    try:
        parsed.command(parsed)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="textvae", description="Hierarchical variational autoencoders over documents")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
