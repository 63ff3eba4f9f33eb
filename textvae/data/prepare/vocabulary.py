"""The processor that all documents of a preparation pass: its tokenizers, and a vocabulary where none is named."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from textvae.atomic import whole_folder
from textvae.damage import checksums
from textvae.data.prepare.division import division_of
from textvae.data.prepare.options import PrepareOptions
from textvae.data.prepare.parts import RawPart
from textvae.data.prepare.tasks import Places
from textvae.data.sources.corpus import from_row
from textvae.data.sources.folder import SPLITS
from textvae.data.text.processor import DECODER_FOLDER, DocumentProcessor
from textvae.data.text.tokenizer import load_decoder_tokenizer, train_sentencepiece
from textvae.data.text.tree import TreeBuilder, paragraphs_of
from textvae.pretrained import resolve_backbone

SAMPLED_BYTES = 30_000_000
"""Of raw text, about, from which a vocabulary is trained."""


def find_backbones(options: PrepareOptions) -> None:
    """Raises OSError for a tokenizer that is nowhere, before hours are spent on reading."""
    resolve_backbone(options.encoder, weights=False)
    if options.decoder is not None and not (Path(options.decoder) / DECODER_FOLDER).is_dir():
        resolve_backbone(options.decoder, weights=False)


def make_processor(options: PrepareOptions, parts: Sequence[RawPart], places: Places) -> str:
    """SHA-256 of the processor's files, which are at `places.processor` then: those of a preparation that goes on are
    kept. Raises ValueError where no such vocabulary can be trained."""
    if not places.processor.is_dir():
        encoder = AutoTokenizer.from_pretrained(resolve_backbone(options.encoder, weights=False))
        decoder = _decoder_tokenizer(options, parts, places)
        limit, language = options.max_sentence_tokens, options.language
        made = DocumentProcessor(options.hierarchy, encoder, decoder, limit, language)
        with whole_folder(places.processor) as folder:
            made.save_pretrained(folder)
    files = (path for path in places.processor.rglob("*") if path.is_file())
    return hashlib.sha256(json.dumps(checksums(places.processor, files)).encode()).hexdigest()


def _decoder_tokenizer(options: PrepareOptions, parts: Sequence[RawPart], places: Places) -> PreTrainedTokenizerBase:
    if options.decoder is None:
        return train_sentencepiece(_sample_paragraphs(options, parts, places), options.vocabulary_size)
    lender = Path(options.decoder) / DECODER_FOLDER
    if lender.is_dir():
        return AutoTokenizer.from_pretrained(lender)
    return load_decoder_tokenizer(resolve_backbone(options.decoder, weights=False))


def _sample_paragraphs(options: PrepareOptions, parts: Sequence[RawPart], places: Places) -> Iterator[str]:
    """Normalised text of evenly spread documents, as much as training a vocabulary needs."""
    build_tree = TreeBuilder(options.hierarchy, options.language)
    of_train = [part for part in parts if part.split == "train"]
    step = math.ceil(sum(part.num_bytes for part in of_train) / SAMPLED_BYTES)
    passed = 0
    for part in of_train:
        rows = np.flatnonzero(division_of(part, places.division).destination == SPLITS.index("train"))
        for raw in part.read(rows[-passed % step :: step]):
            yield from paragraphs_of(from_row(raw), build_tree)
        passed += len(rows)
