"""The text -> tokens side of a model, kept beside its weights: `DocumentProcessor`."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import snapshot_download
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from textvae.atomic import write_json
from textvae.damage import read_json_object, reading
from textvae.data.document import EncodedDocument, SourceDocument
from textvae.data.text.join import join_tokens
from textvae.data.text.segmentation import cut_evenly
from textvae.data.text.tree import Tree, TreeBuilder, cut_sections, lowest_parents, structure_of

PROCESSOR_FILE = "processor.json"
ENCODER_FOLDER = "encoder_tokenizer"
DECODER_FOLDER = "decoder_tokenizer"
_REMEDY = "put back the file as it was saved, or save or prepare it again"
# Below this, one character (four bytes, each a token, and the encoder's special tokens) may not fit.
_SHORTEST_LIMIT = 8


@dataclass(frozen=True)
class ProcessedDocument:
    """What became of one source document."""

    sections: tuple[EncodedDocument, ...]
    """None if the document has no sentence; several, named ID#1, ID#2, ..., if it was cut."""
    num_sentences_split: int
    """Sentences over the limit, cut into several."""
    num_empty_units: int
    """Units without text, removed."""


@dataclass(frozen=True)
class _Sentence:
    text: str
    encoder_ids: list[int]
    decoder_ids: list[int]


class DocumentProcessor:
    """Splits documents into the units of a hierarchy and tokenises them for the encoder and for the decoder.

    Text is normalised first: Unicode NFC, whitespace runs as one space, control characters dropped. From
    there on nothing is lost: `EncodedDocument.text()` gives the normalised text back.
    """

    def __init__(
        self,
        hierarchy: Sequence[str],
        encoder_tokenizer: PreTrainedTokenizerBase,
        decoder_tokenizer: PreTrainedTokenizerBase,
        max_sentence_tokens: int,
        language: str = "en",
    ) -> None:
        """`hierarchy`: names of the levels, top first. `max_sentence_tokens`: longest sentence, in the
        decoder's tokens without and the encoder's with special tokens; the encoder's own maximum bounds it
        too.

        Raises ValueError for an impossible limit and for a decoder tokenizer without an end token.
        """
        if not hierarchy or len(set(hierarchy)) != len(hierarchy):
            raise ValueError(f"hierarchy {tuple(hierarchy)} must name one or more different levels, top first")
        if decoder_tokenizer.eos_token_id is None:
            raise ValueError(
                f"decoder tokenizer '{decoder_tokenizer.name_or_path}' has no end-of-sequence token; "
                "one ends every sentence. Set its eos_token, or name no decoder to have one trained"
            )
        self.hierarchy = tuple(hierarchy)
        self.encoder_tokenizer = encoder_tokenizer
        self.decoder_tokenizer = decoder_tokenizer
        self.max_sentence_tokens = max_sentence_tokens
        self.language = language
        self.encoder_limit = min(max_sentence_tokens, encoder_tokenizer.model_max_length)
        if self.encoder_limit < _SHORTEST_LIMIT:
            raise ValueError(f"max_sentence_tokens is {self.encoder_limit}; it must be {_SHORTEST_LIMIT} or more")
        self._build_tree = TreeBuilder(self.hierarchy, language)

    def with_language(self, language: str) -> DocumentProcessor:
        """The same tokenizers and limits for texts in another language."""
        return DocumentProcessor(
            self.hierarchy, self.encoder_tokenizer, self.decoder_tokenizer, self.max_sentence_tokens, language
        )

    def __call__(self, document: SourceDocument) -> EncodedDocument:
        """The whole document. Raises ValueError if its nesting does not fit the hierarchy, if it has no
        sentence, or if a hierarchy of one level has no room for its over-long sentence."""
        sections = self.process(document).sections
        if not sections:
            raise ValueError(f"document '{document.id}' has no sentence")
        if len(sections) > 1:
            raise ValueError(
                f"document '{document.id}' is one {self.hierarchy[0]} of more than {self.encoder_limit} "
                "tokens: shorten it, or raise max_sentence_tokens when preparing the data"
            )
        return sections[0]

    def process(self, document: SourceDocument, max_sentences: int | None = None) -> ProcessedDocument:
        """The document in sections of at most `max_sentences` sentences each (None: one section), and counts.

        Raises ValueError if the document's nesting does not fit the hierarchy.
        """
        tree, num_empty = self._build_tree(document)
        if not tree:
            return ProcessedDocument((), 0, num_empty)
        depth = len(self.hierarchy) - 1
        if depth == 0:
            (pieces,), num_split = self._tokenise_parents([[tree]])
            trees: list[Tree] = [[piece] for piece in pieces]
        else:
            parents = list(lowest_parents(tree, depth))
            tokenised, num_split = self._tokenise_parents(parents)
            for parent, sentences in zip(parents, tokenised, strict=True):
                parent[:] = sentences
            trees = [tree] if max_sentences is None else cut_sections(tree, depth, max_sentences)
        names = [document.id] if len(trees) == 1 else [f"{document.id}#{n}" for n in range(1, len(trees) + 1)]
        sections = [self._encode(document, name, part) for name, part in zip(names, trees, strict=True)]
        return ProcessedDocument(tuple(sections), num_split, num_empty)

    def encode_written(self, structure: Sequence[Sequence[int]], sentences: Sequence[Sequence[int]]) -> EncodedDocument:
        """A document of given structure (as `EncodedDocument.structure`) and decoder tokens, which are not segmented or
        tokenised again: one that was written. Its sentences are without the space between them."""
        texts = [self.join([ids]) for ids in sentences]
        # Cut to what the encoder reads, its closing token kept.
        encoder_ids = [
            ids if len(ids) <= self.encoder_limit else [*ids[: self.encoder_limit - 1], ids[-1]]
            for ids in (sentence.encoder_ids for sentence in self._tokenise(texts))
        ]
        text = " ".join(texts)
        num_tokens = sum(map(len, sentences))
        return EncodedDocument(
            id="written",
            source_id="written",
            title=None,
            label=None,
            extra="{}",
            sentences=texts,
            structure=structure,
            encoder_ids=list(chain.from_iterable(encoder_ids)),
            encoder_lengths=list(map(len, encoder_ids)),
            decoder_ids=list(chain.from_iterable(sentences)),
            decoder_lengths=list(map(len, sentences)),
            num_tokens=num_tokens + len(sentences),
            num_words=len(text.split()),
            num_bytes=len(text.encode()),
        )

    def _encode(self, document: SourceDocument, name: str, tree: Tree) -> EncodedDocument:
        depth = len(self.hierarchy) - 1
        parents = list(lowest_parents(tree, max(depth, 1)))
        for parent in parents:
            if parent[0].text.startswith(" "):  # a section began inside this unit
                (parent[:1],), _ = self._tokenise_parents([[parent[0].text.lstrip(" ")]])
        sentences = list(chain.from_iterable(parents))
        text = "\n\n".join("".join(sentence.text for sentence in parent) for parent in parents)
        decoder_lengths = [len(sentence.decoder_ids) for sentence in sentences]
        return EncodedDocument(
            id=name,
            source_id=document.id,
            title=document.title,
            label=document.label,
            extra=json.dumps(document.extra, ensure_ascii=False, default=str),
            sentences=[sentence.text for sentence in sentences],
            structure=structure_of(tree, depth),
            encoder_ids=list(chain.from_iterable(sentence.encoder_ids for sentence in sentences)),
            encoder_lengths=[len(sentence.encoder_ids) for sentence in sentences],
            decoder_ids=list(chain.from_iterable(sentence.decoder_ids for sentence in sentences)),
            decoder_lengths=decoder_lengths,
            num_tokens=sum(decoder_lengths) + len(sentences),
            num_words=len(text.split()),
            num_bytes=len(text.encode()),
        )

    def _tokenise_parents(self, parents: Sequence[Sequence[str]]) -> tuple[list[list[_Sentence]], int]:
        """The tokenised sentences of every parent, over-long ones in pieces, and how many were over-long."""
        tokenised = iter(self._tokenise(list(chain.from_iterable(parents))))
        result: list[list[_Sentence]] = []
        num_split = 0
        for parent in parents:
            pieces = [self._split(next(tokenised)) for _ in parent]
            num_split += sum(len(piece) > 1 for piece in pieces)
            result.append(list(chain.from_iterable(pieces)))
        return result, num_split

    def _tokenise(self, texts: list[str]) -> list[_Sentence]:
        # Text that spells a special token ("</s>") must not become one.
        plain: dict[str, Any] = {
            "return_attention_mask": False,
            "return_token_type_ids": False,
            "split_special_tokens": True,
            "verbose": False,
        }
        encoded = self.encoder_tokenizer([text.strip() for text in texts], **plain)["input_ids"]
        decoded = self.decoder_tokenizer(texts, add_special_tokens=False, **plain)["input_ids"]
        return [_Sentence(*sentence) for sentence in zip(texts, encoded, decoded, strict=True)]

    def _split(self, sentence: _Sentence) -> list[_Sentence]:
        excess = max(
            len(sentence.decoder_ids) / self.max_sentence_tokens,
            len(sentence.encoder_ids) / self.encoder_limit,
        )
        if excess <= 1 or len(sentence.text) == 1:
            return [sentence]
        pieces = self._tokenise(cut_evenly(sentence.text, max(2, math.ceil(excess))))
        return [part for piece in pieces for part in self._split(piece)]

    def join(self, sentences: Sequence[Sequence[int]]) -> str:
        """The text of one parent out of its sentences' decoder tokens."""
        return join_tokens(sentences, self.decoder_tokenizer, self.language)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the settings and both tokenizers into `folder`, which is created."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.encoder_tokenizer.save_pretrained(folder / ENCODER_FOLDER)
        self.decoder_tokenizer.save_pretrained(folder / DECODER_FOLDER)
        settings = {
            "hierarchy": list(self.hierarchy),
            "max_sentence_tokens": self.max_sentence_tokens,
            "language": self.language,
        }
        write_json(folder / PROCESSOR_FILE, settings)

    @classmethod
    def from_pretrained(
        cls, name_or_folder: str | os.PathLike[str], subfolder: str = "", **hub: Any
    ) -> DocumentProcessor:
        """The processor in a run, in a prepared data set, or in a Hub repository of that name; `hub` says which of the
        Hub's: `revision`, `token`, `cache_dir`, `local_files_only`, `force_download`.

        Raises ValueError for a folder that holds none or a damaged one, OSError if the Hub does not give it.
        """
        root = Path(name_or_folder)
        if not root.is_dir():
            parts = (PROCESSOR_FILE, f"{ENCODER_FOLDER}/*", f"{DECODER_FOLDER}/*")
            patterns = [str(PurePosixPath(subfolder, part)) for part in parts]
            root = Path(snapshot_download(str(name_or_folder), allow_patterns=patterns, **hub))
        path = root / subfolder / PROCESSOR_FILE
        if not path.is_file():
            raise ValueError(f"'{path.parent}' holds no {PROCESSOR_FILE}: give a run folder or a prepared data set")
        settings = read_json_object(path, _REMEDY)
        tokenizers: list[Any] = []
        for folder in (ENCODER_FOLDER, DECODER_FOLDER):
            with reading(path.parent / folder, _REMEDY):
                tokenizers.append(AutoTokenizer.from_pretrained(path.parent / folder))
        with reading(path, _REMEDY):
            return cls(tuple(settings.pop("hierarchy")), *tokenizers, **settings)
