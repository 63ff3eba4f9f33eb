"""Documents that are embedded together -> their units, as an index stores them.

Embeddings are posterior means, inferred with the ancestors' means. Beside them stand the pretrained encoder's states,
pooled over the same units, which short queries are found by.

Shapes: S sentences, U_l units of level l, Z_l its latent size, F size of the encoder's features.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
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
    features = model.encoder.feature_size
    return {name: LevelSize(model.hierarchy.stack[name].latent_size, features) for name in model.level_names}


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
    texts = [member.text() for member in group.members]
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
        spans = unit_spans(group.members, group.batch, level)
        columns = {
            "row": [first_row + group.rows[document] for document in documents],
            "document": [member.id for member in members],
            "source_id": [member.source_id for member in members],
            "title": [member.title for member in members],
            "label": [member.label for member in members],
            "parent": parents,
            "text": _parts(texts, documents, spans),
            "start": spans[:, 0],
            "end": spans[:, 1],
            "normaliser": _normalisers(model, group.batch, down_to),
        }
        units = group.batch.ancestor(len(group.batch.levels) - 1, level)
        directions = F.normalize(segment_mean(features, units, len(latents.mean)), dim=-1)
        yield name, UnitRows(latents.mean.float().cpu().numpy(), directions.half().cpu().numpy(), columns)
        above = name


def _normalisers(model: HierarchicalTextVAE, batch: DocumentBatch, means: Mapping[str, Tensor]) -> list[float | None]:
    """Of the units of the last level of `means`, which has those of the levels above, too, each [U_l, Z_l]."""
    level = batch.level_number(list(means)[-1])
    if model.decoder.topic_head is None:
        return [None] * len(batch.levels[level])
    z = {name: mean[batch.ancestor(level, batch.level_number(name))] for name, mean in means.items()}
    return normalisers(model, unit_topics(model, z)).tolist()


def unit_texts(documents: Sequence[EncodedDocument], batch: DocumentBatch, level: int) -> list[str]:
    """[U_l] the text of every unit of a level, a part of its document's."""
    texts, spans = [document.text() for document in documents], unit_spans(documents, batch, level)
    return _parts(texts, batch.ancestor(level, 0).tolist(), spans)


def _parts(texts: Sequence[str], document: Sequence[int], spans: np.ndarray) -> list[str]:
    """[U_l] of the units' documents [U_l] and their spans [U_l, 2]."""
    return [texts[number][start:end] for number, (start, end) in zip(document, spans.tolist(), strict=True)]


def unit_spans(documents: Sequence[EncodedDocument], batch: DocumentBatch, level: int) -> np.ndarray:
    """[U_l, 2] where in its document's text every unit of a level begins and ends, in characters; a sentence without
    the separator before it."""
    sentences = [sentence for document in documents for sentence in document.sentences]
    lowest = len(batch.levels) - 1
    document, unit = (batch.ancestor(lowest, above).numpy(force=True) for above in (0, level))
    parent = batch.ancestor(lowest, max(0, lowest - 1)).numpy(force=True)
    # Blank lines stand between parents. What was counted before a document begins does not count.
    between = len("\n\n") * (np.diff(parent, prepend=parent[:1]) > 0)
    end = np.cumsum([len(sentence) for sentence in sentences] + between)
    start = end - [len(sentence) for sentence in sentences]
    before = start[np.searchsorted(document, document)]
    if level == lowest:
        separators = [len(sentence) - len(sentence.lstrip()) for sentence in sentences]
        return np.stack([start - before + separators, end - before], axis=1)
    first, after = (np.searchsorted(unit, np.arange(unit[-1] + 1), side) for side in ("left", "right"))
    return np.stack([(start - before)[first], (end - before)[after - 1]], axis=1)
