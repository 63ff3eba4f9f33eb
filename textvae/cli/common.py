"""What several commands share: the model and where it runs, errors in a line."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from textvae.cluster import RayWorkers
from textvae.devices import DTYPES, best_precision, choose_device

if TYPE_CHECKING:
    from textvae.text_vae import HierarchicalTextVAE

logger = logging.getLogger("textvae")
BATCH_TOKENS = 8192


def add_model(
    parser: argparse.ArgumentParser, *, required: bool = True, said: str = "", batch_tokens: bool = False
) -> None:
    """--model, described further by `said`, and what `load_model` reads."""
    parser.add_argument(
        "--model", required=required, metavar="RUN", help=" ".join(["run folder or Hub name", said]).strip()
    )
    add_runtime(parser, batch_tokens=batch_tokens)


def add_runtime(parser: argparse.ArgumentParser, *, batch_tokens: bool = False) -> None:
    """Where the model runs, in which numbers and how much at a time."""
    group = parser.add_argument_group("running the model")
    group.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: the accelerator, where there is one)")
    group.add_argument(
        "--dtype",
        choices=["auto", *DTYPES],
        help="of the weights (default: as they were saved); auto: bfloat16 where the device multiplies it faster",
    )
    if batch_tokens:
        group.add_argument(
            "--batch-tokens", type=int, default=BATCH_TOKENS, metavar="N", help="at a time (default: %(default)s)"
        )


def add_ray(parser: argparse.ArgumentParser) -> None:
    """--ray, for `ray_workers`."""
    parser.add_argument(
        "--ray",
        nargs="?",
        const="auto",
        metavar="ADDRESS",
        help="share the work over a Ray cluster whose machines see the same files: auto, local or HOST:PORT",
    )


def ray_workers(arguments: argparse.Namespace) -> RayWorkers | None:
    """The cluster of --ray. Raises ValueError where there is none."""
    return None if arguments.ray is None else RayWorkers(arguments.ray)


def add_verbosity(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-v", "--verbose", action="count", default=0, help="say more on standard error; twice: tracebacks of errors"
    )


def load_model(
    arguments: argparse.Namespace, run: str | None = None, device: str | torch.device | None = None
) -> HierarchicalTextVAE:
    """The model of `run` (default: --model) as the arguments of `add_runtime` want it, on `device` (default: theirs).

    Raises ValueError as `load_run` does, and for --batch-tokens below 1.
    """
    from textvae.runs import load_run  # models take seconds to import

    where, dtype = choose_device(device or arguments.device), DTYPES.get(arguments.dtype)
    if arguments.dtype == "auto" and best_precision(where) == "bf16":
        dtype = torch.bfloat16
    model = load_run(run or arguments.model, where, dtype)
    if "batch_tokens" in arguments:
        if arguments.batch_tokens < 1:
            raise ValueError(f"--batch-tokens is {arguments.batch_tokens}; it must be 1 or more")
        model.set_chunk_tokens(arguments.batch_tokens)
    return model


def exit_status(run: Callable[[], None], verbose: int = 0) -> int:
    """Of a command: 0, or 2 with one line on standard error for what the user can mend."""
    logging.basicConfig(format="%(message)s")
    logger.setLevel((logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)])
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # which sets itself to DEBUG
    try:
        run()
    except (ValueError, OSError) as error:
        logger.debug("where it went wrong:", exc_info=True)
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def shortened(text: str, length: int) -> str:
    """On one line."""
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1].rsplit(" ", 1)[0] + " …"
