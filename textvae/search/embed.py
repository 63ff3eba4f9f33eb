"""Embed a corpus at every level: the rows are written as they are made, and the index appears when it is whole.

Embeddings are posterior means, inferred with the ancestors' means. Beside those of the lowest level stand the
pretrained encoder's pooled states of the same units, which short queries are found by.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor

from textvae.damage import sha256_of
from textvae.data.batch import DocumentBatch
from textvae.data.dataset import Documents
from textvae.data.document import EncodedDocument
from textvae.data.loader import DocumentGroup, walk
from textvae.model.unit_transformer import segment_mean
from textvae.search.origin import ModelOrigin
from textvae.search.storage import FORMAT, IndexDescription, LevelDescription, Moments, ShardWriter
from textvae.search.words import normalisers, unit_topics
from textvae.text_vae import HierarchicalTextVAE


def embed_corpus(
    model: HierarchicalTextVAE,
    documents: Documents,
    out: str | Path,
    run: str,
    batch_tokens: int = 8192,
    process: PartialState | None = None,
) -> IndexDescription:
    """Write an index of all `documents` with the model of `run`; of several processes each writes a shard.

    It is written aside, and renamed to `out` when it is whole. Raises ValueError when the model has no latents or
    the folder exists.
    """
    process = process or PartialState()
    out = Path(out)
    if out.exists():
        raise ValueError(f"'{out}' exists already: remove it, or choose another folder (--out)")
    if not model.level_names:
        raise ValueError(f"'{run}' is a plain language model: it has no latents to embed with")
    partial = out.parent / f".{out.name}.partial"
    if process.is_main_process:
        shutil.rmtree(partial, ignore_errors=True)  # of an embedding that was killed
        partial.mkdir(parents=True)
    process.wait_for_everyone()
    parts: list[dict[str, Shard]] = gather_object([_write_shard(model, documents, partial, batch_tokens, process)])
    totals = {name: reduce(add, (part[name].moments for part in parts)) for name in model.level_names}
    description = IndexDescription(
        format=FORMAT,
        model=ModelOrigin.of(run, out),
        documents=len(documents),
        sources=documents.num_sources,
        levels={
            name: LevelDescription(
                [part[name].moments.count for part in parts],
                total.mean.tolist(),
                total.std.tolist(),
                [part[name].sha256 for part in parts],
                _feature_size(model, name),
            )
            for name, total in totals.items()
        },
    )
    if process.is_main_process:
        description.write(partial)
        partial.rename(out)
    process.wait_for_everyone()
    return description


@dataclass(frozen=True)
class Shard:
    """What is known of one process's rows of one level."""

    moments: Moments
    sha256: str


def _write_shard(
    model: HierarchicalTextVAE, documents: Documents, folder: Path, batch_tokens: int, process: PartialState
) -> dict[str, Shard]:
    """Of every level."""
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(
                closing(
                    ShardWriter(
                        folder / name,
                        process.process_index,
                        process.num_processes,
                        model.hierarchy.stack[name].latent_size,
                        _feature_size(model, name),
                    )
                )
            )
            for name in model.level_names
        }
        for group in walk(
            documents,
            model.layout,
            model.device,
            batch_tokens=batch_tokens,
            process=process,
            order="data",
            purpose="embeddings",
        ):
            _write_group(model, group, writers)
    return {name: Shard(writer.moments, sha256_of(writer.path)) for name, writer in writers.items()}


def _feature_size(model: HierarchicalTextVAE, level: str) -> int:
    """Of the features that are stored with a level's units: none but at the lowest."""
    assert model.encoder is not None
    return model.encoder.feature_size if level == model.level_names[-1] else 0


@torch.no_grad()
def _write_group(model: HierarchicalTextVAE, group: DocumentGroup, writers: dict[str, ShardWriter]) -> None:
    above: str | None = None
    features = model.sentence_features(group.batch)
    inferred = model.latents(replace(group.batch, features=features))
    before = {name: writer.moments.count for name, writer in writers.items()}
    down_to: dict[str, Tensor] = {}
    for name, latents in inferred.items():
        down_to[name] = latents.mean
        level = group.batch.level_number(name)
        members = [group.members[document] for document in latents.document.tolist()]
        parents: list[int | None] = [None] * len(members)
        if above is not None:
            ancestors = group.batch.ancestor(level, group.batch.level_number(above)).tolist()
            parents = [before[above] + ancestor for ancestor in ancestors]
        columns = {
            "row": [group.rows[document] for document in latents.document.tolist()],
            "document": [member.id for member in members],
            "source_id": [member.source_id for member in members],
            "title": [member.title for member in members],
            "label": [member.label for member in members],
            "parent": parents,
            "text": unit_texts(group.members, group.batch, level),
            "normaliser": _normalisers(model, group.batch, down_to),
        }
        stored = None
        if name == model.level_names[-1]:
            units = group.batch.ancestor(len(group.batch.levels) - 1, level)
            stored = segment_mean(features, units, len(latents.mean)).half().cpu().numpy()
        writers[name].write(latents.mean.float().cpu().numpy(), columns, stored)
        above = name


def _normalisers(model: HierarchicalTextVAE, batch: DocumentBatch, means: Mapping[str, Tensor]) -> list[float | None]:
    """Of the units of the last level of `means`, which has those of the levels above, too, each [U_l, Z_l]."""
    level = batch.level_number(list(means)[-1])
    if model.decoder.topic_head is None:
        return [None] * len(batch.levels[level])
    z = {name: mean[batch.ancestor(level, batch.level_number(name))] for name, mean in means.items()}
    return normalisers(model, unit_topics(model, z)).tolist()


def unit_texts(documents: Sequence[EncodedDocument], batch: DocumentBatch, level: int) -> list[str]:
    """The text of every unit of a level: its lowest parents' (sentences as they were separated), between blank
    lines."""
    sentences = [sentence for document in documents for sentence in document.sentences]
    lowest = len(batch.levels) - 1
    if level == lowest:
        return [sentence.strip() for sentence in sentences]
    parents = [""] * len(batch.levels[lowest - 1])
    for parent, sentence in zip(batch.levels[lowest].parent.tolist(), sentences, strict=True):
        parents[parent] += sentence
    texts: list[list[str]] = [[] for _ in range(len(batch.levels[level]))]
    for unit, text in zip(batch.ancestor(lowest - 1, level).tolist(), parents, strict=True):
        texts[unit].append(text)
    return ["\n\n".join(parts) for parts in texts]
