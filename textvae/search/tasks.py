"""What is done for each shard of an index, by any process that sees the folder: its documents are embedded.

A shard is whole or not there, the same whoever writes it and however often.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path

import torch
from accelerate import PartialState

from textvae.atomic import whole_folder
from textvae.data.document import EncodedDocument
from textvae.data.loader import walk_groups
from textvae.lock import locked_beside
from textvae.runs import load_run
from textvae.search.origin import weights_sha256
from textvae.search.resume import Content, Embedding
from textvae.search.rows import level_sizes, write_group
from textvae.search.shard import ShardWriter
from textvae.text_vae import HierarchicalTextVAE

Read = Callable[[int], EncodedDocument]
"""Row in the data -> document."""


@dataclass(frozen=True)
class ShardTask:
    name: str
    groups: list[list[int]]
    """Rows in the data of the documents that are embedded together, in order."""

    @property
    def documents(self) -> int:
        return sum(map(len, self.groups))


@dataclass(frozen=True)
class ModelCopy:
    """What a process needs to have the same model as another."""

    run: str
    """Folder or Hub name."""
    sha256: str
    """Of its weights."""
    dtype: torch.dtype
    """Of its encoder and decoder."""
    chunk_tokens: int

    @classmethod
    def of(cls, model: HierarchicalTextVAE, run: str, sha256: str) -> ModelCopy:
        return cls(run, sha256, model.decoder.backbone.dtype, model.layout.chunk_tokens)

    def load(self) -> HierarchicalTextVAE:
        """On the accelerator, where there is one. Raises ValueError for another model in its place."""
        if weights_sha256(self.run) != self.sha256:
            raise ValueError(
                f"the model in '{self.run}' is another where a worker reads it: give all machines the same files"
            )
        model = load_run(self.run, dtype=self.dtype)
        model.set_chunk_tokens(self.chunk_tokens)
        return model


def embed_shards(
    model: HierarchicalTextVAE,
    tasks: Sequence[ShardTask],
    read: Read,
    folder: Path,
    embedding: Embedding,
    process: PartialState,
    purpose: str | None = None,
) -> None:
    """Write the shards into `folder`, one after the other; a progress bar is named `purpose`."""
    sizes = level_sizes(model)
    # One walk over all of them: documents are read ahead across the shards, and one bar counts them.
    groups = list(chain.from_iterable(task.groups for task in tasks))
    walked = walk_groups(read, groups, model.layout, model.device, process=process, purpose=purpose)
    for task in tasks:
        content = Content()
        with whole_folder(folder / task.name) as path, ShardWriter(path, sizes, embedding.language) as shard:
            for group in islice(walked, len(task.groups)):
                write_group(model, group, shard, embedding.first_row)
                for document in group.members:
                    content.update(document)
            shard.finish(task.documents, content.hexdigest())


def embed_shard(task: ShardTask, copy: ModelCopy, read: Read, folder: Path, embedding: Embedding) -> None:
    """Write a shard into `folder`, which the process that shares out the tasks has locked, with a copy of its model.

    Raises ValueError as `ModelCopy.load` does.
    """
    with locked_beside(folder):
        embed_shards(_loaded(copy), [task], read, folder, embedding, PartialState())


@lru_cache(maxsize=1)
def _loaded(copy: ModelCopy) -> HierarchicalTextVAE:
    """One for all shards that a process writes."""
    return copy.load()
