"""A source -> a prepared data set: a folder of Arrow shards, the processor, an account of what was done."""

from __future__ import annotations

import platform
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial as partial_of
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import Any

from textvae.atomic import needing_room, partial, rename, whole_folder, write_json
from textvae.damage import checksums
from textvae.data.dataset import METADATA_FILE, WORD_COUNTS_FILE
from textvae.data.fingerprint import EncoderFingerprint
from textvae.data.prepare.division import CarveOptions, divide
from textvae.data.prepare.layout import describe, shards_of
from textvae.data.prepare.options import PrepareOptions
from textvae.data.prepare.parts import RawPart, Reading, parts_of, read, readings, save_array
from textvae.data.prepare.resume import begin, forget, forget_what_followed, missing_in, to_read
from textvae.data.prepare.stages import FeatureFunction
from textvae.data.prepare.summary import PreparationSummary, SplitSummary
from textvae.data.prepare.tasks import Places, accounts_of, add_features, encode, merge
from textvae.data.prepare.vocabulary import find_backbones, make_processor
from textvae.data.sources.corpus import CorpusOptions
from textvae.data.sources.folder import SPLITS
from textvae.lock import locked
from textvae.workers import LocalWorkers, Workers


def prepare(
    options: PrepareOptions,
    feature_fn: FeatureFunction | None = None,
    encoder: EncoderFingerprint | None = None,
    *,
    workers: Workers | None = None,
    start_over: bool = False,
) -> PreparationSummary:
    """Write the prepared data set `options.out`, print and return what was counted.

    With `cache_features`, `feature_fn` reads the sentences; only models with the very same `encoder` will use what it
    gives. `workers` (default: `num_proc` processes) share the work. The same source and options give the same files,
    whoever does it (features as far as their processors sum alike), but for the time that it took. They are written
    aside, and renamed to `out` when they are whole; a preparation that was killed goes on where it stood, and one that
    met a source that it cannot read keeps what it has read of others. `start_over` forgets what was begun.

    Raises ValueError for a source that cannot be read or has no usable document, if `out` exists, and if another
    preparation was begun there; OSError if a backbone cannot be found, the disk is full or a process was lost.
    """
    started = time.monotonic()
    out = Path(options.out)
    if out.exists():
        raise ValueError(f"'{out}' exists already: remove it, or choose another folder (--out)")
    if options.cache_features != (feature_fn is not None):
        raise ValueError("cache_features and feature_fn go together: give both or neither")
    find_backbones(options)
    places = Places(partial(out))
    places.root.mkdir(parents=True, exist_ok=True)
    with locked(places.root), needing_room(places.root, "the same command goes on where it stood"):
        begin(places, _described(options, encoder), start_over)
        summary = _prepare(options, feature_fn, encoder, places, workers or LocalWorkers(options.num_proc), started)
        rename(places.done, out)
        shutil.rmtree(places.root)
    print(f"prepared {out} in {summary.seconds:.0f} s\n{summary}")
    return summary


def _described(options: PrepareOptions, encoder: EncoderFingerprint | None) -> dict[str, Any]:
    """What must be the same for a preparation to go on."""
    asked = {name: value for name, value in asdict(options).items() if name not in ("out", "num_proc")}
    return {**asked, "features of": None if encoder is None else asdict(encoder), "versions": _versions()}


def _prepare(
    options: PrepareOptions,
    feature_fn: FeatureFunction | None,
    encoder: EncoderFingerprint | None,
    places: Places,
    workers: Workers,
    started: float,
) -> PreparationSummary:
    corpus = CorpusOptions(options.source, options.fields, options.limit, num_proc=options.num_proc)
    try:
        found, passed_over = readings(corpus)
        _read(found, corpus, options.seed, places, workers)
    except Exception:
        forget(places, but_raw=True)
        raise
    try:
        parts = parts_of(found, places.raw)
        filled = {part.split for part in parts}
        empty = next((reading.split for reading in found if reading.split not in filled), None)
        if empty is not None:
            raise ValueError(f"there is no document to read in split '{empty}' of '{options.source}'")
        _divide(options, parts, places)
        processor = make_processor(options, parts, places)
        summary = _encode(options, feature_fn, parts, places, processor, workers)
    except ValueError:
        # The source or the options are to be changed, and what was made of them is no use then.
        forget(places, but_raw=False)
        raise
    described = PreparationSummary(summary, passed_over, time.monotonic() - started)
    _write_metadata(places.done, options, described, encoder)
    return described


def _read(found: Sequence[Reading], corpus: CorpusOptions, seed: int, places: Places, workers: Workers) -> None:
    missing = to_read(found, places)
    do = partial_of(read, options=corpus, seed=seed, raw=places.raw)
    workers.run(do, [reading for reading in missing if reading.files], "reading")
    LocalWorkers().run(do, [reading for reading in missing if not reading.files], "reading")
    forget_what_followed(found, places)


def _divide(options: PrepareOptions, parts: Sequence[RawPart], places: Places) -> None:
    if not places.division.is_dir():
        carve = CarveOptions(options.validation_fraction, options.test_fraction, options.seed)
        with whole_folder(places.division) as folder:
            divide(parts, carve, folder)


def _encode(
    options: PrepareOptions,
    feature_fn: FeatureFunction | None,
    parts: Sequence[RawPart],
    places: Places,
    processor: str,
    workers: Workers,
) -> dict[str, SplitSummary]:
    do = partial_of(encode, places=places, processor_sha256=processor, max_sentences=options.max_document_sentences)
    workers.run(do, missing_in(places.encoded, parts, "tokenising"), "tokenising")
    accounts, words = accounts_of(parts, places)
    summaries = {split: accounts[split].summary() for split in SPLITS if split in accounts}
    for split, summary in summaries.items():
        if not summary.sections:
            raise ValueError(f"no document of split '{split}' has any text:\n{summary.listed()}")
    has_features = feature_fn is not None
    if feature_fn is not None:
        left = [part.name for part in missing_in(places.featured, parts, "encoding")]
        workers.run(partial_of(add_features, places=places, feature_fn=feature_fn), left, "encoding", alone=True)
    shards = {split: shards_of(split, parts, places, has_features) for split in summaries}
    for split in shards:
        (places.done / split).mkdir(parents=True, exist_ok=True)
    missing = [shard for shard in chain.from_iterable(shards.values()) if not shard.path.is_file()]
    workers.run(merge, missing, "merging")
    describe(places.done, shards, has_features)
    save_array(places.done / WORD_COUNTS_FILE, words)
    shutil.copytree(places.processor, places.done, dirs_exist_ok=True)
    return summaries


def _write_metadata(
    folder: Path, options: PrepareOptions, summary: PreparationSummary, encoder: EncoderFingerprint | None
) -> None:
    (folder / METADATA_FILE).unlink(missing_ok=True)  # of a preparation that was killed when all was done
    content = {
        "hierarchy": options.hierarchy,
        "options": asdict(options),
        "versions": _versions(),
        "seconds": round(summary.seconds, 1),
        "features": None if encoder is None else asdict(encoder),
        "passed_over": [asdict(entry) for entry in summary.passed_over],
        "splits": {split: asdict(counts) for split, counts in summary.splits.items()},
        "files": checksums(folder, (path for path in folder.rglob("*") if path.is_file())),
    }
    write_json(folder / METADATA_FILE, content)


def _versions() -> dict[str, str]:
    packages = ("textvae", "datasets", "transformers", "tokenizers", "sentencepiece", "sentencex")
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in packages}
