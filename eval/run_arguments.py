"""What the evaluation scripts share: their arguments, their processes, how they write their results."""

import argparse
import atexit
import json
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env


def evaluation_parser(description: str | None, *, data: bool = True) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", required=True, metavar="RUN", help="run folder or Hub name")
    if data:
        parser.add_argument("--data", required=True, help="prepared data set, or any source of `textvae prepare`")
        parser.add_argument("--split", default="validation", help="split of the data (default: %(default)s)")
        parser.add_argument("--limit", type=int, metavar="N", help="only the first N documents")
    parser.add_argument("--out", required=True, metavar="FILE.json", help="where the result is written")
    parser.add_argument("--seed", type=int, default=0, help="of the latents' noise (default: %(default)s)")
    return parser


def evaluation_process() -> PartialState:
    """This process among those that `accelerate launch` started; the only one without it."""
    device = torch.accelerator.current_accelerator(check_available=True)
    # Several processes without accelerators have to be told so. Keyed noise is made in float64, which Apple's MPS
    # does not have. Processes wait for the slowest at the end, which may take longer than the default's minutes.
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or device is None or device.type == "mps"
    state = PartialState(cpu=cpu, timeout=timedelta(days=7))
    # A process that exits with its group still open may be aborted by the group's threads, its work done.
    atexit.register(state.destroy_process_group)
    return state


def write_json(path: str, result: dict[str, Any]) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def exit_code(main: Callable[[], None]) -> int:
    """Run a script; what the user can mend becomes one line, not a traceback."""
    try:
        main()
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
