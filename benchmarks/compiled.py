"""What `train.compile` saves of a training step's time, and what it takes first: the same batches with the decoder's
blocks compiled and not, one after the other.

OMP_NUM_THREADS=1 python benchmarks/compiled.py DATA
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from statistics import median

from document_length import step
from measures import batches_of_steps, facts, in_training, timed
from torch._dynamo.utils import counters

from textvae.atomic import write_json
from textvae.config_file import load_config
from textvae.data.batch import DocumentBatch
from textvae.data.dataset import load_prepared
from textvae.devices import best_precision, choose_device
from textvae.text_vae import HierarchicalTextVAE
from textvae.training.compilation import check_compiler, compile_blocks
from textvae.training.objective import Objective


@dataclass(frozen=True)
class Compared:
    tokens: int
    """Of all steps that were timed."""
    shapes: int
    """Of the decoder's rows, different ones."""
    graphs: int
    """That were compiled."""
    compiling_seconds: float
    """Of the first steps, in excess of what they take uncompiled: of the processors, the compiler's included."""
    compiling_clock_seconds: float
    tokens_per_second: float
    """Uncompiled; the median of the steps, as those that follow."""
    compiled_tokens_per_second: float
    times: float
    """How long a compiled step takes, over the same step uncompiled."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", help="prepared")
    parser.add_argument("--config", default=Path(__file__).with_name("model.yaml"), type=Path, metavar="FILE")
    parser.add_argument("--warm-up", type=int, default=3, metavar="N", help="steps before (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=8, metavar="N", help="that are timed (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="as of train.py")
    return parser


def measure(arguments: argparse.Namespace) -> Compared:
    config = load_config(arguments.config, [f"data.path={arguments.data}", *arguments.overrides])
    split, device = load_prepared(arguments.data, "train"), choose_device()
    check_compiler(device)
    usual = in_training(config, split.processor)
    compiled = deepcopy(usual)
    compile_blocks(compiled)
    objective = Objective(config.objective, usual.level_names, 1)
    batches = batches_of_steps(config, split, usual, arguments.warm_up + arguments.steps)
    bfloat16 = best_precision(device) == "bf16"

    def seconds(model: HierarchicalTextVAE, batches: Sequence[DocumentBatch]) -> float:
        found = timed(lambda batch: step(model, objective, bfloat16, batch), batches)
        model.zero_grad()
        return found

    graphs = counters["stats"]["unique_graphs"]
    first = list(chain.from_iterable(batches[: arguments.warm_up]))
    began, children = time.perf_counter(), _of_children()
    plain = seconds(usual, first)
    plain_clock, began = time.perf_counter() - began, time.perf_counter()
    warm = seconds(compiled, first)
    warm_clock = time.perf_counter() - began
    rounds = [(seconds(usual, part), seconds(compiled, part)) for part in islice(batches, arguments.warm_up, None)]
    sizes = [sum(len(batch.tokens) for batch in part) for part in islice(batches, arguments.warm_up, None)]
    shapes = {chunk.ids.shape for part in batches for batch in part for chunk in batch.decoder_chunks}
    return Compared(
        tokens=sum(sizes),
        shapes=len(shapes),
        graphs=counters["stats"]["unique_graphs"] - graphs,
        compiling_seconds=warm - plain + _of_children() - children,
        compiling_clock_seconds=warm_clock - plain_clock,
        tokens_per_second=median(size / one for size, (one, _) in zip(sizes, rounds, strict=True)),
        compiled_tokens_per_second=median(size / one for size, (_, one) in zip(sizes, rounds, strict=True)),
        times=median(one / other for other, one in rounds),
    )


def _of_children() -> float:
    """Seconds of the processor that processes took which were started here and have ended, such as the compiler."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    arguments = build_parser().parse_intermixed_args()
    found = measure(arguments)
    print(
        f"{found.compiled_tokens_per_second:,.0f} tokens/s compiled, {found.tokens_per_second:,.0f} as written: a step "
        f"takes {found.times:.2f} of the time; {found.graphs} graphs for rows of {found.shapes} shapes, compiled in "
        f"{found.compiling_seconds:.0f} s of the processors ({found.compiling_clock_seconds:.0f} s by the clock)"
    )
    if arguments.out:
        write_json(arguments.out, {**facts(), "compiled": asdict(found)})


if __name__ == "__main__":
    main()
