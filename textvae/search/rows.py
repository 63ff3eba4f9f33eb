"""Documents that are embedded together -> their units, as an index stores them.

Embeddings are posterior means, inferred with the ancestors' means. Beside those of the lowest level stand the
pretrained encoder's pooled states of the same units, which short queries are found by.

Shapes: U_l units of level l, Z_l its latent size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from textvae.data.batch import DocumentBatch
from textvae.data.document import EncodedDocument
from textvae.data.loader import DocumentGroup
from textvae.model.unit_transformer import segment_mean
from textvae.search.shard import LevelSize, ShardWriter
from textvae.search.units import UnitRows
from textvae.search.words import normalisers, unit_topics
from textvae.text_vae import HierarchicalTextVAE


def level_sizes(model: HierarchicalTextVAE) -> dict[str, LevelSize]:
    """By level of the model, top first."""
    assert model.encoder is not None
    lowest, features = model.level_names[-1], model.encoder.feature_size
    return {
        name: LevelSize(model.hierarchy.stack[name].latent_size, features if name == lowest else 0)
        for name in model.level_names
    }


@torch.no_grad()
def write_group(model: HierarchicalTextVAE, group: DocumentGroup, shard: ShardWriter, first_row: int) -> None:
    """The units of a group's documents, whose numbers in the index are their rows in the data and `first_row`."""
    before = {name: shard.units(name) for name in model.level_names}
    for name, rows in unit_rows(model, group, before, first_row):
        shard.write(name, rows)


def unit_rows(
    model: HierarchicalTextVAE, group: DocumentGroup, before: Mapping[str, int], first_row: int
) -> Iterator[tuple[str, UnitRows]]:
    """By level, top first. `before`: units of each that stand before the group's in the shard."""
    above: str | None = None
    features = model.sentence_features(group.batch)
    inferred = model.latents(replace(group.batch, features=features))
    down_to: dict[str, Tensor] = {}
    for name, latents in inferred.items():
        down_to[name] = latents.mean
        level = group.batch.level_number(name)
        documents = latents.document.tolist()
        members = [group.members[document] for document in documents]
        parents: list[int | None] = [None] * len(members)
        if above is not None:
            ancestors = group.batch.ancestor(level, group.batch.level_number(above)).tolist()
            parents = [before[above] + ancestor for ancestor in ancestors]
        columns = {
            "row": [first_row + group.rows[document] for document in documents],
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
        yield name, UnitRows(latents.mean.float().cpu().numpy(), columns, stored)
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
