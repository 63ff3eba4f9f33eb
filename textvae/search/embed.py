"""Embed a corpus at every level, shard by shard: an embedding that is killed goes on, and an index grows.

An index is made aside, and appears when it is whole. What is appended to one is part of it from the moment at which
`index.json` names it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial as partial_of
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.compute
from accelerate import PartialState
from accelerate.utils import gather_object

from textvae.atomic import partial, rename
from textvae.data.dataset import Documents
from textvae.data.fingerprint import data_fingerprint
from textvae.data.plan import fill, share
from textvae.lock import locked_together
from textvae.search.manifest import describe
from textvae.search.neighbours import remove_neighbours
from textvae.search.origin import ModelOrigin
from textvae.search.resume import Embedding, begun_in, changed_shards, default_shard_documents, remove_shards
from textvae.search.storage import FORMAT, IndexDescription
from textvae.search.tasks import ModelCopy, ShardTask, embed_shard, embed_shards
from textvae.search.units import read_level
from textvae.text_vae import HierarchicalTextVAE
from textvae.workers import Workers

logger = logging.getLogger("textvae")


def embed_corpus(
    model: HierarchicalTextVAE,
    documents: Documents,
    out: str | Path,
    run: str,
    batch_tokens: int = 8192,
    process: PartialState | None = None,
    *,
    workers: Workers | None = None,
    shard_documents: int | None = None,
    append: bool = False,
    start_over: bool = False,
) -> IndexDescription:
    """Write an index of all `documents` with the model of `run`; several processes share the shards, or one gives them
    to `workers`, each of which loads the model itself.

    It is written aside, and renamed to `out` when it is whole; one that was killed goes on with the shards that are
    missing, and ends with the files of one that was not (as far as the processor sums alike twice).

    `shard_documents`: of a shard (default: a sixteenth of them, at least 64 and at most 8,192); `append` adds the
    documents to the index `out`, which was made by the same model and has none of their ids; `start_over` forgets what
    was begun. Raises ValueError when the model has no latents, the folder exists (or is no such index), an embedding
    of other data, or with another model or other options, was begun there, or another process writes there.
    """
    process, out = process or PartialState(), Path(out)
    if workers is not None and process.num_processes > 1:
        raise ValueError(f"{process.num_processes} processes cannot share workers (--ray): start a single one")
    if not model.level_names:
        raise ValueError(f"'{run}' is a plain language model: it has no latents to embed with")
    if shard_documents is not None and shard_documents < 1:
        raise ValueError(f"--shard-documents is {shard_documents}; it must be 1 or more")
    if append:
        IndexDescription.read(out)  # which refuses what is no index
    elif out.exists():
        raise ValueError(
            f"'{out}' exists already: remove it, choose another folder (--out), or add to it with --append"
        )
    folder = out if append else partial(out)
    if process.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
    process.wait_for_everyone()
    with locked_together(folder, process):
        dtype = " and ".join(sorted({str(weight.dtype).removeprefix("torch.") for weight in model.parameters()}))
        known = _known(out, run, dtype, documents.ids) if append else None
        origin = ModelOrigin.of(run, out) if known is None else known.model
        embedding = Embedding(
            FORMAT,
            origin.sha256,
            dtype,
            model.processor.language if known is None else known.language,
            data_fingerprint(documents.ids, documents.token_counts),
            batch_tokens,
            shard_documents or default_shard_documents(len(documents)),
            first_row=0 if known is None else known.rows,
        )
        kept = () if known is None else tuple(known.shards)
        missing = _missing(documents, folder, embedding, process, start_over, kept)
        if workers is None:
            mine = _tasks(_shared(missing, documents.token_counts, process), documents, embedding)
            embed_shards(model, mine, documents.read, folder, embedding, process, "embeddings")
        else:
            copy = ModelCopy.of(model, run, origin.sha256)
            do = partial_of(embed_shard, copy=copy, read=documents.read, folder=folder, embedding=embedding)
            workers.run(do, _tasks(missing, documents, embedding), "embeddings", alone=True)
        process.wait_for_everyone()
        if process.is_main_process:
            rows, shards = embedding.first_row + len(documents), (*kept, *embedding.shards)
            remove_shards(folder, but=shards)  # beginnings, of writers that were killed
            remove_neighbours(folder)
            describe(folder, origin, dtype, embedding.language, rows, shards).write(folder)
            if not append:
                rename(folder, out)
        process.wait_for_everyone()
    return IndexDescription.read(out)


def _known(out: Path, run: str, dtype: str, ids: Sequence[str]) -> IndexDescription:
    """Of the index that documents with these `ids` are to be appended to, its shards verified. Raises ValueError where
    they cannot be."""
    known = IndexDescription.read(out)
    known.model.find(out, run)  # which refuses another one
    if known.dtype != dtype:
        raise ValueError(
            f"'{out}' was embedded with weights in {known.dtype}, not in {dtype}: append with the --dtype of then"
        )
    for name in known.shards:
        known.shard(out, name)
    column = read_level(out, known, next(iter(known.levels))).column("document")
    held = pyarrow.compute.is_in(column, pyarrow.array(ids, pyarrow.string()))
    if pyarrow.compute.any(held).as_py():
        taken = set(column.filter(held).to_pylist())
        first = next(name for name in ids if name in taken)
        raise ValueError(
            f"{len(taken)} of these documents are in '{out}' already, the first is '{first}': leave them out, or "
            "delete what they are to replace (textvae delete)"
        )
    return known


def _missing(
    documents: Documents,
    folder: Path,
    embedding: Embedding,
    process: PartialState,
    start_over: bool,
    kept: Sequence[str],
) -> dict[str, range]:
    """Those shards of `embedding`, with their rows in the data, that are not whole yet in `folder`, where the shards
    `kept` stay in any case."""
    begun = begun_in(folder, embedding, start_over)
    process.wait_for_everyone()
    if process.is_main_process and not begun:
        remove_shards(folder, but=kept)
        embedding.write(folder)
    process.wait_for_everyone()
    whole = {name: rows for name, rows in embedding.shards.items() if (folder / name).is_dir()}
    missing = {name: rows for name, rows in embedding.shards.items() if name not in whole}
    # A barrier, too: whoever writes before another has looked would seem to have written in an earlier life.
    changed = list(chain.from_iterable(gather_object(_changed(documents, folder, whole, process))))
    if changed:
        first = whole[min(changed)].start
        raise ValueError(
            f"documents that were embedded into '{folder}' are others now, those from '{documents.ids[first]}' on: go "
            "on with the data it was begun with, or leave it with --start-over"
        )
    if begun and process.is_main_process:
        logger.warning("going on after %s documents", f"{sum(map(len, whole.values())):,}")
    return missing


def _changed(documents: Documents, folder: Path, whole: Mapping[str, range], process: PartialState) -> list[list[str]]:
    """`resume.changed_shards` of this process's share of those that are whole."""
    return [changed_shards(folder, _shared(whole, documents.token_counts, process), documents.read)]


def _shared(shards: Mapping[str, range], token_counts: np.ndarray, process: PartialState) -> dict[str, range]:
    """This process's, in their order; all have about the same number of tokens."""
    names = list(shards)
    loads = np.asarray([token_counts[rows.start : rows.stop].sum() for rows in shards.values()])
    mine = share(np.arange(len(names)), loads, process.num_processes)[process.process_index]
    return {names[number]: shards[names[number]] for number in sorted(mine.tolist())}


def _tasks(shards: Mapping[str, range], documents: Documents, embedding: Embedding) -> list[ShardTask]:
    counts, size = documents.token_counts, embedding.batch_tokens
    return [
        ShardTask(name, [group.tolist() for group in fill(np.asarray(rows), counts, size)])
        for name, rows in shards.items()
    ]
