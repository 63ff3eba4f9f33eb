"""Hostile documents through everything that reads text: no crash, no loss, no document that is not accounted for.

    python experiments/hostile_documents.py --documents 10000 --seed 0

Hypothesis draws documents of any Unicode (right-to-left, combining marks, emoji, control characters, lone surrogates
in JSON escapes, mixed line endings), of 1 to 10,000 sentences. They are written as files of every kind and prepared;
a tiny model with random weights scores and embeds them. What is read back is compared with what was written, cleaned.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from itertools import accumulate, islice, pairwise
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from textvae.build import build_model
from textvae.config import DecoderConfig, EncoderConfig, LevelConfig, ModelConfig, UnitConfig
from textvae.data.dataset import load_prepared, open_documents
from textvae.data.document import EncodedDocument, SourceDocument
from textvae.data.prepare.pipeline import PrepareOptions, prepare
from textvae.data.text.processor import DocumentProcessor
from textvae.data.text.segmentation import split_paragraphs
from textvae.data.text.tokenizer import train_sentencepiece
from textvae.evaluation.likelihood.perplexity import score_documents
from textvae.search.embed import embed_corpus
from textvae.text_vae import HierarchicalTextVAE

LANGUAGES = ("en", "zh", "ar", "th", "ja", "xx")
SENTENCES = ("The wind rose. ", "Dr. Brown said 3.5! ", "שלום עולם. ", "مرحبا بالعالم؟ ", "今天很好。", "नमस्ते। ")
BREAKS = ("\n\n", "\r\n\r\n", "\r", "\r\r", "\n \t\n", "\u2028", "\u2029", "\x85", "\x0b", "\x1c")
SPACES = ("\u3000", "\u00a0", "\t", " ")
MARKS = ("\u202e", "\u200b", "\u200d", "\u00ad", "\ufe0f", "\u0301", "z\u0323\u0307\u0323", "\u1e9b\u0323")
WHOLE = ("👩\u200d👩\u200d👧", "🇩🇪", "สวัสดี", "क्षि")
WRONG = ("\x00", "\x1b[31m", "\x7f", "\ufeff", "\ufffe", "\uffff", "\U0010ffff", "\ud83d", "\ude00", "\ud83d\ude00")
SPELLED = ("</s>", "<0x41>", "[SEP]", "<unk>", "\u2581", "https://example.org/" + "aB3." * 60, "x" * 300, "中" * 120)
LENGTHS = (1,) * 70 + (3,) * 15 + (20,) * 8 + (100,) * 5 + (500,) * 2
SHARE_LONGEST = 1000
"""One document in so many has as many sentences as are asked for at most."""


@dataclass(frozen=True)
class Outcome:
    counts: Counter[str]
    """How much there was of what."""
    failures: tuple[str, ...]
    """What went wrong, a line each."""


def draw_documents(count: int, number: int, longest: int) -> list[dict[str, Any]]:
    """Records with hostile text, title and further field; `number` is the seed."""
    anything = st.text(st.characters() | st.sampled_from("\ud800\udbff\udc00\udfff"), max_size=30)
    known = (*SENTENCES, *SENTENCES, *BREAKS, *SPACES, *MARKS, *WHOLE, *WRONG, *SPELLED)
    passage = st.lists(st.sampled_from(known) | anything, max_size=12).map("".join)
    drawn: list[dict[str, Any]] = []

    @seed(number)
    @settings(
        max_examples=count,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(passage, anything, anything, st.sampled_from(LENGTHS), st.sampled_from(SENTENCES))
    def collect(text: str, title: str, more: str, length: int, sentence: str) -> None:
        repeats = min(length, longest)
        drawn.append({"text": (text + sentence * (length > 1)) * repeats, "title": title, "more": {more: [more]}})

    while len(drawn) < count:
        collect()
    for index, record in enumerate(drawn[:count]):
        record["id"] = f"d{index}"
        if index % SHARE_LONGEST == SHARE_LONGEST - 1:
            record["text"] = "".join(f"{record['text'][:20]} {n}. " for n in range(longest))
    return drawn[:count]


def write_files(records: Sequence[Mapping[str, Any]], folder: Path) -> list[SourceDocument]:
    """Of every kind that can hold a record; returns what should be read, in the order of the files."""
    folder.mkdir()
    lines, rows, texts = [], [], []
    for index, record in enumerate(records):
        text = record["text"]
        is_writable = not any("\ud800" <= character <= "\udfff" for character in text)
        if is_writable and index % 10 == 1:
            rows.append({"id": record["id"], "text": text})
        elif is_writable and index % 10 == 2:
            texts.append(SourceDocument(id=f"z/{record['id']}", text=text))
        else:
            lines.append(record)
    encoded = (json.dumps(record) + ("\r\n" if index % 2 else "\n") for index, record in enumerate(lines))
    (folder / "a.jsonl").write_bytes(("\ufeff" + "".join(encoded)).encode())
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows or [{"id": "none", "text": None}]), folder / "b.parquet")
    (folder / "z").mkdir()
    for document in texts:
        encoding = "utf-16" if len(document.id) % 2 else "utf-8-sig"
        (folder / f"{document.id}.txt").write_bytes((document.text or "").encode(encoding))
    from_lines = [
        SourceDocument(record["id"], record["text"], title=record["title"], extra={"more": record["more"]})
        for record in lines
    ]
    return [
        *from_lines,
        *(SourceDocument(**row) for row in rows or [{"id": "none"}]),
        *sorted(texts, key=lambda document: f"{document.id}.txt"),
    ]


def tiny_model(folder: Path) -> str:
    """A run folder with random weights."""
    torch.manual_seed(0)
    texts = ["".join((*SENTENCES, *SPELLED)), *map(str, range(300))]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    )
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True))
    encoder = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=64, **names)
    encoder.save_pretrained(folder / "encoder")
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(encoder), max_position_embeddings=64, **size)).save_pretrained(
        folder / "encoder"
    )
    processor = DocumentProcessor(("document", "paragraph", "sentence"), encoder, train_sentencepiece(texts, 420), 48)
    decoder = {"model_type": "gpt2", "n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 512}
    model = build_model(
        ModelConfig(
            levels=tuple(LevelConfig(name, 4) for name in processor.hierarchy),
            units=UnitConfig(width=16, layers=1, heads=2),
            encoder=EncoderConfig(name=str(folder / "encoder")),
            decoder=DecoderConfig(architecture=decoder, conditioning_width=8, logit_rank=4),
        ),
        processor,
    )
    model.save_pretrained(folder / "run")
    return str(folder / "run")


def check(documents: int, number: int, longest: int, batch: int) -> Outcome:
    """Draw so many documents with seed `number`, and put them through everything, `batch` at a time."""
    counts: Counter[str] = Counter()
    failures: list[str] = []
    records = iter(draw_documents(documents, number, longest))
    with tempfile.TemporaryDirectory() as name:
        run = tiny_model(Path(name))
        index = 0
        while part := list(islice(records, batch)):
            language = LANGUAGES[index % len(LANGUAGES)]
            try:
                failures += _check_part(part, Path(name) / str(index), run, language, counts)
            except Exception as error:
                failures.append(f"batch {index}: {type(error).__name__}: {error}")
            index += 1
            print(f"{counts['documents']:,} documents, {len(failures)} failures", file=sys.stderr, flush=True)
    return Outcome(counts, tuple(failures))


def _check_part(
    records: Sequence[Mapping[str, Any]], folder: Path, run: str, language: str, counts: Counter[str]
) -> list[str]:
    folder.mkdir()
    sources = write_files(records, folder / "source")
    options = PrepareOptions(
        str(folder / "source"),
        str(folder / "data"),
        encoder=str(Path(run).parent / "encoder"),
        decoder=run,
        max_sentence_tokens=48,
        validation_fraction=0,
        test_fraction=0,
        language=language,
    )
    with redirect_stdout(StringIO()):
        account = prepare(options).splits["train"]
    split = load_prepared(folder / "data", "train")
    found = {document.source_id: document for document in map(split.read, range(len(split)))}
    failures = [failure for source in sources for failure in _differences(source, found, split.processor)]
    model = HierarchicalTextVAE.from_pretrained(run).eval()
    opened = open_documents(str(folder / "source"), split.processor)
    if opened.account != account:
        failures.append(f"{folder.name}: read as {opened.account}, prepared as {account}")
    if account.documents_read != len(sources) or account.documents_set_aside != len(sources) - len(found):
        failures.append(f"{folder.name}: {len(sources)} documents, accounted for as {account}")
    scores = score_documents(model, opened, "elbo", 1)
    failures += [f"{score.source}: scored {score.nll}" for score in scores if not math.isfinite(score.nll)]
    index = embed_corpus(model, opened, folder / "index", run)
    units = {name: level.units for name, level in index.levels.items()}
    expected = {"document": len(split), "sentence": account.sentences}
    if {name: units[name] for name in expected} != expected:
        failures.append(f"{folder.name}: embedded {units}, not {expected}")
    counts["documents"] += account.documents_read
    counts["set aside, without any text"] += account.documents_set_aside
    counts["sentences"] += account.sentences
    counts["sentences over the limit, split"] += account.sentences_split
    counts["tokens"] += account.tokens
    counts["documents scored"] += len(scores)
    counts["units embedded"] += sum(units.values())
    return failures


def _differences(
    source: SourceDocument, found: Mapping[str, EncodedDocument], processor: DocumentProcessor
) -> list[str]:
    """What of a document did not come back."""
    expected = "\n\n".join(split_paragraphs(source.text or ""))
    document = found.get(source.id)
    if document is None:
        return [f"{source.id}: set aside, but its text is {expected[:80]!r}"] if expected else []
    failures = []
    if document.text() != expected:
        failures.append(f"{source.id}: {document.text()[:80]!r}, not {expected[:80]!r}")
    if (document.title, json.loads(document.extra)) != (source.title, source.extra):
        failures.append(f"{source.id}: title {document.title!r}, further fields {document.extra[:80]}")
    sentences = [ids.tolist() for ids in document.decoder_sentences()]
    counts = accumulate(document.structure[-1], initial=0)
    joined = "".join(processor.join(sentences[start:end]) for start, end in pairwise(counts))
    # SentencePiece writes a space for its own sign.
    if "".join(joined.split()) != "".join(expected.replace("\u2581", " ").split()):
        failures.append(f"{source.id}: its tokens are {joined[:80]!r}, not {expected[:80]!r}")
    return failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=10_000, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--longest", type=int, default=10_000, metavar="N", help="sentences of the longest documents")
    parser.add_argument("--batch", type=int, default=1000, metavar="N", help="documents that are prepared at a time")
    arguments = parser.parse_args()
    datasets.disable_progress_bars()
    started = time.monotonic()
    outcome = check(arguments.documents, arguments.seed, arguments.longest, arguments.batch)
    for name, count in outcome.counts.items():
        print(f"{count:>12,} {name}")
    print(f"{len(outcome.failures):>12,} failures in {time.monotonic() - started:.0f} s")
    print(*outcome.failures[:50], sep="\n")
    return 1 if outcome.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
