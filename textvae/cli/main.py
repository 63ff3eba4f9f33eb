"""The `textvae` command."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from textvae import __version__
from textvae.cli import (
    adapt,
    delete,
    describe,
    embed,
    export_encoder,
    generate,
    interpolate,
    merge,
    prepare,
    reconstruct,
    search,
)
from textvae.cli.common import add_verbosity, exit_status

COMMANDS = (prepare, generate, interpolate, reconstruct, describe, adapt, embed, search, delete, export_encoder, merge)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 with one line on standard error for what the user can mend."""
    parsed = build_parser().parse_args(arguments)
    return exit_status(lambda: parsed.command(parsed), parsed.verbose)


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="textvae", description="Hierarchical variational autoencoders over documents")
    parser.add_argument("--version", action="version", version=f"textvae {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    for command_parser in commands.choices.values():
        add_verbosity(command_parser)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
