"""Peak memory and speed of `textvae prepare` on a part of a corpus and on all of it, of what training opens first, and
of training's batches straight from a stream.

    OMP_NUM_THREADS=1 python benchmarks/corpus_size.py --source WIKI/train.jsonl.xz --times 0.1 1 --out corpus_size.json
    OMP_NUM_THREADS=1 python benchmarks/corpus_size.py --short 5000 50000 --open 10000 1000000
    OMP_NUM_THREADS=1 python benchmarks/corpus_size.py --source WIKI/train.jsonl.xz --times --stream 0.1 1

`--times 10`, `--stream 10`: ten copies of the source, ids changed. Words a second are those of the processor's seconds.
Memory is that of all processes together: what is resident, files that are mapped included, and what is their own
(anonymous), of which the system can take nothing back.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path

import psutil
import pyarrow

from textvae.atomic import write_json
from textvae.cli.main import main as textvae
from textvae.damage import sha256_of
from textvae.data.dataset import METADATA_FILE
from textvae.data.sources.files import read_file
from textvae.data.sources.records import FieldNames
from textvae.runs import versions

SHARDS = 8
"""Files of a corpus."""
WORDS = "the boat came in late and the town was still asleep when it did"
OPENED = """
import sys
from textvae.data.dataset import load_prepared
from textvae.data.plan import BatchPlan
split = load_prepared(sys.argv[1], "train")
split.fingerprint
plan = BatchPlan(split.token_counts, 16384, 1)
for step in (0, 10, 1500):
    [split.read(int(row)) for row in plan.documents(step)]
"""


STREAMED = """
import sys
from accelerate import Accelerator
from textvae.config import DataConfig
from textvae.data.batch import BatchLayout
from textvae.data.dataset import load_prepared
from textvae.data.sources.shards import open_shards
from textvae.data.stream import open_stream
settings = DataConfig(sys.argv[1], 16384, 16384, stream=sys.argv[2], stream_buffer=512)
training = load_prepared(settings.path, "train")
layout = BatchLayout(training.processor.hierarchy, training.processor.hierarchy[-1], 256, 1, 2, 0, 0)
source = open_shards(settings.stream, training.source_options.fields)
stream = open_stream(settings, source, training, layout, Accelerator(cpu=True), steps=10**9, seed=1)
for _ in stream.batches(0, 1):
    if stream.epoch:
        break
"""


@dataclass(frozen=True)
class Watched:
    seconds: float
    processor_seconds: float
    peak_bytes: int
    """Resident, mapped files included."""
    peak_own_bytes: int
    """Anonymous."""


def watched(command: Sequence[str]) -> Watched:
    """Run `command` and look at its processes ten times a second."""
    began, before = time.monotonic(), _processor_seconds()
    peak = own = 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as running:
        parent = psutil.Process(running.pid)
        while running.poll() is None:
            with suppress(psutil.Error):
                found = [_memory(each) for each in (parent, *parent.children(recursive=True))]
                peak, own = max(peak, sum(all_ for all_, _ in found)), max(own, sum(own for _, own in found))
            time.sleep(0.1)
    if running.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {running.returncode}")
    return Watched(time.monotonic() - began, _processor_seconds() - before, peak, own)


def _memory(process: psutil.Process) -> tuple[int, int]:
    """Bytes resident, and those of them that are anonymous; none of a process that has ended."""
    try:
        used = process.memory_info()
    except psutil.NoSuchProcess:
        return 0, 0
    return used.rss, used.rss - used.shared


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def write_corpus(source: Path, folder: Path, times: float) -> None:
    """`times` as many documents as `source` holds, in `SHARDS` files; copies have other ids."""
    folder.mkdir()
    total = sum(1 for _ in read_file(source, source, FieldNames()))
    wanted = max(1, round(times * total))
    files = [(folder / f"part-{number:02}.jsonl").open("w", encoding="utf-8") for number in range(SHARDS)]
    written = 0
    while written < wanted:
        for document in islice(read_file(source, source, FieldNames()), wanted - written):
            record = {"id": f"{document.id}-{written // total}", "text": document.text, "title": document.title}
            record["paragraphs"] = document.paragraphs
            said = json.dumps({name: value for name, value in record.items() if value is not None})
            files[written * SHARDS // wanted].write(said + "\n")
            written += 1
    for file in files:
        file.close()


def write_short_corpus(folder: Path, documents: int) -> None:
    """Documents of a sentence."""
    folder.mkdir()
    words = cycle(WORDS.split())
    with (folder / "short.jsonl").open("w", encoding="utf-8") as file:
        for number in range(documents):
            said = {"id": f"document number {number}", "text": " ".join(islice(words, 8)) + "."}
            file.write(json.dumps(said) + "\n")


def write_prepared(template: Path, out: Path, documents: int) -> None:
    """A prepared data set of so many documents: those of `template` again and again, under other ids."""
    shutil.copytree(template, out)
    (path,) = (out / "train").glob("*.arrow")
    with pyarrow.OSFile(str(path)) as file:
        table = pyarrow.ipc.open_stream(file).read_all()
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as writer:
        for start in range(0, documents, len(table)):
            part = table.slice(0, documents - start)
            names = pyarrow.array([f"document number {start + row}" for row in range(len(part))])
            for column in ("id", "source_id"):
                part = part.set_column(part.schema.get_field_index(column), part.schema.field(column), names)
            writer.write_table(part.combine_chunks())
    described = json.loads((out / METADATA_FILE).read_text(encoding="utf-8"))
    described["splits"]["train"]["sections"] = documents
    described["files"][path.relative_to(out).as_posix()] = sha256_of(path)
    (out / METADATA_FILE).write_text(json.dumps(described), encoding="utf-8")


def prepared(source: Path, out: Path, options: Sequence[str]) -> dict[str, float]:
    found = watched([sys.executable, "-m", "textvae.cli.main", "prepare", str(source), "--out", str(out), *options])
    splits = json.loads((out / METADATA_FILE).read_text(encoding="utf-8"))["splits"].values()
    words, documents = (sum(counts[name] for counts in splits) for name in ("words", "documents_read"))
    return {
        "documents": documents,
        "words": words,
        "words_per_second": words / found.processor_seconds,
        **asdict(found),
    }


def streamed(source: Path, data: Path) -> dict[str, float]:
    """An epoch of batches, tokenised by one worker process."""
    found = watched([sys.executable, "-c", STREAMED, str(data), str(source)])
    documents = sum(file.read_bytes().count(b"\n") for file in source.iterdir())
    return {"documents": documents, **asdict(found)}


def shown(name: str, found: dict[str, float]) -> None:
    cells = [name, *(f"{found[key]:,.0f}" if key in found else "" for key in ("documents", "words_per_second"))]
    cells += [f"{found['processor_seconds']:,.1f}", f"{found['peak_bytes'] / 2**20:,.0f}"]
    print(f"| {' | '.join(cells)} | {found['peak_own_bytes'] / 2**20:,.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, metavar="FILE", help="jsonl, compressed or not")
    parser.add_argument("--times", type=float, nargs="*", default=[0.1, 1.0], metavar="N", help="of the source")
    parser.add_argument("--stream", type=float, nargs="*", default=[], metavar="N", help="of the source, in batches")
    parser.add_argument("--short", type=int, nargs="*", default=[], metavar="N", help="documents of one sentence")
    parser.add_argument("--open", type=int, nargs="*", default=[], metavar="N", help="documents of prepared data")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="after --: of textvae prepare")
    arguments = parser.parse_args()
    options = [option for option in arguments.options if option != "--"]
    measures: dict[str, dict[str, float]] = {}
    print("| | documents | words/s | processor, s | peak, MiB | of its own, MiB |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for times in arguments.times if arguments.source else []:
            write_corpus(arguments.source, folder / f"{times}", times)
            measures[f"prepare {times} x"] = prepared(folder / f"{times}", folder / f"{times}-data", options)
            shown(f"prepare {times} x", measures[f"prepare {times} x"])
        if arguments.stream:
            write_corpus(arguments.source, folder / "sample", 0.1)
            prepared(folder / "sample", folder / "sample-data", options)
        for times in arguments.stream:
            write_corpus(arguments.source, folder / f"stream-{times}", times)
            measures[f"stream {times} x"] = streamed(folder / f"stream-{times}", folder / "sample-data")
            shown(f"stream {times} x", measures[f"stream {times} x"])
        for count in arguments.short:
            write_short_corpus(folder / f"short-{count}", count)
            out = folder / f"short-{count}-data"
            small = ["--vocabulary-size", "300", *options]
            measures[f"prepare {count} short"] = prepared(folder / f"short-{count}", out, small)
            shown(f"prepare {count} short", measures[f"prepare {count} short"])
        if arguments.open:
            write_short_corpus(folder / "template", 1024)
            asked = ["prepare", str(folder / "template"), "--out", str(folder / "template-data")]
            with redirect_stdout(None):
                status = textvae([*asked, "--vocabulary-size", "300", *options])
            if status:
                raise SystemExit("the data set to be opened could not be prepared")
        for count in arguments.open:
            write_prepared(folder / "template-data", folder / f"open-{count}", count)
            command = [sys.executable, "-c", OPENED, str(folder / f"open-{count}")]
            measures[f"open {count}"] = {"documents": count, **asdict(watched(command))}
            shown(f"open {count}", measures[f"open {count}"])
    if arguments.out:
        said = {"versions": versions(), "options": options, "measures": measures}
        write_json(arguments.out, said)


if __name__ == "__main__":
    main()
