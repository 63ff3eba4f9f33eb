"""What a training step spends its time on: its operators by their own time, beside the decoder alone on the same rows.

textvae prepare SOURCE --out DATA --cache-features
OMP_NUM_THREADS=1 python benchmarks/operators.py DATA --config configs/quickstart-small.yaml
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from document_length import work_of
from measures import facts
from torch.profiler import ProfilerActivity, profile

from textvae.atomic import write_json
from textvae.data.batch import DocumentBatch
from textvae.devices import choose_device


@dataclass(frozen=True)
class Spent:
    calls: int
    microseconds: float
    """Its own, without the operators that it calls: of the accelerator, or of the processor where there is none."""


@dataclass(frozen=True)
class Operator:
    calls: int
    share: float
    """Of the step's time."""
    microseconds: float
    """For a token."""
    decoder_calls: int
    """Of the decoder alone."""
    decoder_microseconds: float


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", help="prepared, with cached features")
    parser.add_argument("--config", default=Path(__file__).with_name("model.yaml"), type=Path, metavar="FILE")
    parser.add_argument("--sentences", type=int, default=20, help="of a document (default: %(default)s)")
    parser.add_argument("--total", type=int, default=200, help="sentences at most (default: %(default)s)")
    parser.add_argument("--top", type=int, default=10, metavar="N", help="operators (default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="all of them")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="as of train.py")
    return parser


def profiled(do: Callable[[DocumentBatch], None], batches: Iterable[DocumentBatch]) -> dict[str, Spent]:
    """Operator -> what it took in `do` of every batch."""
    device = choose_device().type
    activities = [ProfilerActivity.CPU] + ([] if device == "cpu" else [ProfilerActivity.CUDA])
    with profile(activities=activities) as profiler:
        for batch in batches:
            do(batch)
    return {
        event.key: Spent(event.count, event.self_cpu_time_total if device == "cpu" else event.self_device_time_total)
        for event in profiler.key_averages()
    }


def measure(arguments: argparse.Namespace) -> dict[str, Operator]:
    """By their time, longest first."""
    work = work_of(arguments.data, arguments.config, arguments.overrides, [arguments.sentences], arguments.total)
    batches = work.by_length[arguments.sentences]
    tokens = sum(len(batch.tokens) for batch in batches)
    spent, alone = profiled(work.trained, batches), profiled(work.floor, batches)
    total = sum(one.microseconds for one in spent.values())
    nothing = Spent(0, 0.0)
    return {
        name: Operator(
            one.calls,
            one.microseconds / total,
            one.microseconds / tokens,
            alone.get(name, nothing).calls,
            alone.get(name, nothing).microseconds / tokens,
        )
        for name, one in sorted(spent.items(), key=lambda item: -item[1].microseconds)
    }


def table(found: dict[str, Operator], top: int) -> str:
    lines = ["| operator | of the time | microseconds a token | calls | the decoder alone: microseconds | calls |"]
    lines.append("|---|---|---|---|---|---|")
    for name, one in list(found.items())[:top]:
        alone = f"{one.decoder_microseconds:,.1f} | {one.decoder_calls:,}"
        lines.append(f"| {name} | {100 * one.share:.1f} % | {one.microseconds:,.1f} | {one.calls:,} | {alone} |")
    calls, of_decoder = (sum(getattr(one, key) for one in found.values()) for key in ("calls", "decoder_calls"))
    total, alone_total = (
        sum(getattr(one, key) for one in found.values()) for key in ("microseconds", "decoder_microseconds")
    )
    lines.append(f"| all {len(found)} | 100 % | {total:,.1f} | {calls:,} | {alone_total:,.1f} | {of_decoder:,} |")
    return "\n".join(lines)


def main() -> None:
    arguments = build_parser().parse_intermixed_args()
    found = measure(arguments)
    print(table(found, arguments.top))
    if arguments.out:
        write_json(arguments.out, {**facts(), "operators": {name: asdict(one) for name, one in found.items()}})


if __name__ == "__main__":
    main()
