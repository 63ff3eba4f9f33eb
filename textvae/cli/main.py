"""The `textvae` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from textvae import __version__
from textvae.cli.common import add_verbosity, exit_status

COMMANDS = (
    "prepare",
    "generate",
    "interpolate",
    "reconstruct",
    "describe",
    "adapt",
    "embed",
    "search",
    "neighbours",
    "delete",
    "export_encoder",
    "merge",
)
"""Modules of `textvae.cli`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 with one line on standard error for what the user can mend."""
    given = sys.argv[1:] if arguments is None else arguments
    parsed = build_parser([name for name in COMMANDS if name.replace("_", "-") in given[:1]]).parse_args(given)
    return exit_status(lambda: parsed.command(parsed), parsed.verbose)


def build_parser(names: Sequence[str] = ()) -> argparse.ArgumentParser:
    """`names`: of the commands to import, which takes seconds where they need a model; without any, all."""
    parser = argparse.ArgumentParser(prog="textvae", description="Hierarchical variational autoencoders over documents")
    parser.add_argument("--version", action="version", version=f"textvae {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name in names or COMMANDS:
        import_module(f"textvae.cli.{name}").add(commands)
    for command_parser in commands.choices.values():
        add_verbosity(command_parser)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
