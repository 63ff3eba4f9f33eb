"""How a source is read: the same options, checks and counts for every command that takes one."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from textvae.data.dataset import Documents, open_documents
from textvae.data.sources.corpus import SourceOptions
from textvae.data.sources.records import FieldNames

if TYPE_CHECKING:
    from textvae.text_vae import HierarchicalTextVAE

SOURCES = "jsonl, txt or parquet file or folder, Hub data set NAME[:CONFIG], or python-docs"


def add_source_options(
    parser: argparse.ArgumentParser, *, language: str | None = None, limit: str = "at most N documents, spread over all"
) -> None:
    """The options that `source_options` reads, and --limit with its help.

    `language`: the default; None is the model's.
    """
    group = parser.add_argument_group("reading a source")
    group.add_argument("--limit", type=int, metavar="N", help=limit)
    group.add_argument(
        "--max-document-sentences", type=int, metavar="N", help="cut longer documents into sections of at most N"
    )
    spoken = language or "that of the model's data"
    group.add_argument("--language", default=language, metavar="CODE", help=f"of the texts (default: {spoken})")
    for name, default in (("text", None), ("id", "id"), ("title", "title"), ("label", "label")):
        said = f"default: {default}" if default else "default: units, paragraphs or text, the first that holds text"
        group.add_argument(f"--{name}-field", default=default, metavar="FIELD", help=f"the record's {name} ({said})")


def field_names(arguments: argparse.Namespace) -> FieldNames:
    return FieldNames(
        text=arguments.text_field, id=arguments.id_field, title=arguments.title_field, label=arguments.label_field
    )


def source_options(arguments: argparse.Namespace) -> SourceOptions:
    """Raises ValueError for a limit below 1."""
    return SourceOptions(field_names(arguments), arguments.language, arguments.max_document_sentences)


def open_source(
    arguments: argparse.Namespace, source: str, model: HierarchicalTextVAE, split: str, scratch: Path | None = None
) -> Documents:
    """The documents of a prepared data set or any source, as the options say; `scratch` as of `open_documents`.

    `print(documents)` says how many, of how many sources, and what was set aside. Raises ValueError as
    `open_documents` does.
    """
    from textvae.build import encoder_fingerprint  # whoever has a model has imported it

    encoder = partial(encoder_fingerprint, model)
    options = source_options(arguments)
    return open_documents(source, model.processor, split, arguments.limit, options, encoder, scratch)
