"""What a search takes by looking at everything and at what neighbours propose, and whether it finds the same.

textvae embed CORPUS --model RUN --out INDEX
OMP_NUM_THREADS=1 python benchmarks/search_speed.py INDEX --queries 200

Queries are lines of --queries-from, or titles of the index's documents. Each is read by the model before the clock
runs, and asked once before it is timed. Works on a copy of the index.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import get_args

import faiss
import numpy as np
from measures import facts

from textvae.atomic import write_json
from textvae.runs import load_run
from textvae.search.index import By, Index
from textvae.search.neighbours import FOLDER, Kind, build_neighbours
from textvae.search.query import Queries
from textvae.search.units import read_level

K = 10
KINDS: tuple[By, ...] = ("hybrid", "encoder")


@dataclass(frozen=True)
class Searched:
    level: str
    units: int
    by: By
    neighbours: Kind | None
    """None: everything was looked at."""
    milliseconds: float
    """Of a query, by the clock, median."""
    found: float
    """Share of the best `K` of everything that are among the best `K`."""
    first: float
    """Share of queries whose best is the best of everything."""


@dataclass(frozen=True)
class Built:
    seconds: float
    size: int
    """Bytes of the files."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("index", type=Path, metavar="INDEX")
    parser.add_argument("--model", metavar="RUN", help="of the index (default: where it was then)")
    parser.add_argument("--queries", type=int, default=200, metavar="N", help="(default: %(default)s)")
    parser.add_argument("--queries-from", type=Path, metavar="FILE.txt", help="one a line")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    return parser


def queries_of(index: Index, file: Path | None, number: int) -> list[str]:
    """Spread over all there are."""
    if file is None:
        titles = read_level(index.folder, index.description, index.levels[0]).column("title").unique()
        texts = titles.drop_null().to_pylist()
    else:
        texts = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not texts:
        raise SystemExit("there is no query: the documents have no titles, or the file no lines")
    chosen = np.unique(np.linspace(0, len(texts) - 1, min(number, len(texts))).astype(int))
    return [texts[row] for row in chosen]


def searched(index: Index, queries: Queries, level: str, by: By) -> tuple[list[list[tuple[str, int]]], float]:
    """Of every query the best units, named by document and place in it, and the median of the milliseconds."""
    found, taken = [], []
    for asked in queries:
        for _ in range(2):
            began = time.perf_counter()
            results = index.search(queries.model, asked, level, K, by)
            seconds = time.perf_counter() - began
        taken.append(1000 * seconds)
        found.append([(result.document, result.start) for result in results])
    return found, median(taken)


def measure(index: Path, queries: Queries) -> Iterator[Searched]:
    """On an index without neighbours, which gets those of each kind."""
    levels = Index(index).levels
    known = {}
    for kind in (None, *get_args(Kind)):
        if kind is not None:
            build_neighbours(index, kind)
        opened = Index(index)
        for level in levels:
            for by in KINDS:
                found, milliseconds = searched(opened, queries, level, by)
                expected = known.setdefault((level, by), found)
                pairs = list(zip(found, expected, strict=True))
                shared = sum(len(set(ours) & set(theirs)) for ours, theirs in pairs)
                of = sum(len(theirs) for _, theirs in pairs)
                first = sum(ours[0] == theirs[0] for ours, theirs in pairs) / len(pairs)
                units = opened.description.levels[level].units
                yield Searched(level, units, by, kind, milliseconds, shared / of, first)


def built(index: Path) -> dict[str, Built]:
    sizes = {}
    for kind in get_args(Kind):
        began = time.perf_counter()
        build_neighbours(index, kind)
        seconds = time.perf_counter() - began
        sizes[kind] = Built(seconds, sum(file.stat().st_size for file in (index / FOLDER).iterdir()))
    shutil.rmtree(index / FOLDER)
    return sizes


def table(found: Sequence[Searched]) -> str:
    lines = ["| level | units | by | neighbours | ms a query | the same ten | the same first |"]
    lines.append("|---|---|---|---|---|---|---|")
    for one in found:
        kind = one.neighbours or "everything"
        shares = f"{100 * one.found:.1f} % | {100 * one.first:.1f} %"
        lines.append(f"| {one.level} | {one.units:,} | {one.by} | {kind} | {one.milliseconds:.1f} | {shares} |")
    return "\n".join(lines)


def main() -> None:
    arguments = build_parser().parse_args()
    faiss.omp_set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=arguments.index.absolute().parent) as folder:
        index = Path(shutil.copytree(arguments.index, Path(folder) / "index"))
        shutil.rmtree(index / FOLDER, ignore_errors=True)
        model = load_run(Index(arguments.index).find_model(arguments.model))
        queries = Queries(model, queries_of(Index(index), arguments.queries_from, arguments.queries))
        sizes = built(index)
        for kind, one in sizes.items():
            print(f"{kind}: made in {one.seconds:.1f} s, {one.size / 2**20:.1f} MiB")
        found = list(measure(index, queries))
    print(table(found))
    if arguments.out:
        known = {"queries": len(queries), "built": {kind: asdict(one) for kind, one in sizes.items()}}
        write_json(arguments.out, {**facts(), **known, "searches": [asdict(one) for one in found]})


if __name__ == "__main__":
    main()
