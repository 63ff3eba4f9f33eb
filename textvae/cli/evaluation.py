"""What the scripts of eval/ share: their arguments, their processes, how they write their results."""

from __future__ import annotations

import argparse
import atexit
import logging
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

from textvae import __version__
from textvae.atomic import write_json
from textvae.cli.common import add_model, add_verbosity, exit_status, load_model, logger
from textvae.cli.source_options import SOURCES, add_source_options, open_source
from textvae.data.dataset import Documents
from textvae.devices import choose_device
from textvae.text_vae import HierarchicalTextVAE


def script_parser(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"textvae {__version__}")
    add_verbosity(parser)
    return parser


def evaluation_parser(description: str | None, *, needs_data: bool = True) -> argparse.ArgumentParser:
    """For a script that takes a model and data, and writes a JSON file."""
    parser = script_parser(description)
    parser.add_argument("--data", required=needs_data, help=f"prepared data set, or a source: {SOURCES}")
    parser.add_argument("--split", default="validation", help="split of the data (default: %(default)s)")
    parser.add_argument("--out", required=True, metavar="FILE.json", help="where the result is written")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (default: %(default)s)")
    add_source_options(parser)
    add_model(parser, batch_tokens=True)
    return parser


def evaluation_process(device: str | None = None) -> PartialState:
    """This process among those that `accelerate launch` started; the only one without it.

    Several of them take one accelerator each. Raises ValueError for a device that is not here.
    """
    # Several processes without accelerators have to be told so. Processes wait for the slowest at the end, which may
    # take longer than the default's minutes.
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or choose_device(device).type == "cpu"
    state = PartialState(cpu=cpu, timeout=timedelta(days=7))
    # A process that exits with its group still open may be aborted by the group's threads, its work done.
    atexit.register(state.destroy_process_group)
    return state


def open_evaluation(arguments: argparse.Namespace) -> tuple[PartialState, HierarchicalTextVAE, Documents]:
    """What the arguments of `evaluation_parser` name: the model on the device of this process."""
    process, model = open_model(arguments)
    return process, model, open_split(arguments, arguments.split, model, process)


def open_model(arguments: argparse.Namespace) -> tuple[PartialState, HierarchicalTextVAE]:
    """This process, and the model on its device."""
    process = evaluation_process(arguments.device)
    return process, load_model(arguments, device=own_device(arguments, process))


def open_split(
    arguments: argparse.Namespace, split: str, model: HierarchicalTextVAE, process: PartialState
) -> Documents:
    """Documents of one split of --data."""
    documents = open_source(arguments, arguments.data, model, split)
    if process.is_main_process:
        # What became of a source that is read now must be seen; of prepared data, `prepare` has said it.
        logger.log(logging.INFO if documents.account is None else logging.WARNING, "%s: %s", arguments.data, documents)
    return documents


def own_device(arguments: argparse.Namespace, process: PartialState) -> str | torch.device:
    """Of this process: the one that was named, unless several share the accelerators."""
    return arguments.device if arguments.device and process.num_processes == 1 else process.device


def sections(result: dict[str, Any]) -> str:
    """How much text a result is of."""
    documents, sources = result["documents"], result["sources"]
    return f"{documents} documents" if documents == sources else f"{documents} sections of {sources} documents"


def write_result(path: str, result: dict[str, Any]) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_json(Path(path), result)


def run_script(
    parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], None], arguments: list[str] | None = None
) -> int:
    """Exit status; what the user can mend becomes one line, not a traceback."""
    parsed = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    return exit_status(lambda: run(parsed), parsed.verbose)
