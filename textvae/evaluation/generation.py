"""Documents written under given themes, measured beside the real documents that the themes are of.

Shapes: T themes, D documents written, P paragraphs, Z size of a theme, F size of the encoder's features, N tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from statistics import fmean

import numpy as np
import torch
from accelerate import PartialState
from sacrebleu.metrics import BLEU
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

from textvae.data.dataset import Documents
from textvae.data.document import EncodedDocument
from textvae.data.loader import gather_in_order
from textvae.model.unit_transformer import segment_mean
from textvae.pretrained import resolve_backbone
from textvae.text_vae import GeneratedDocument, HierarchicalTextVAE
from textvae.writing.operations import theme
from textvae.writing.options import SamplingOptions
from textvae.writing.plan import DocumentPlan

OWN, TFIDF, ENCODER = "own", "tfidf", "encoder_mean"
NGRAM = 8
"""Words in a row that count as copied."""
JUDGED_TOKENS = 512
"""Of a document that a judge reads: the nats of a token depend on how much it has read before."""
BLEU_PARAGRAPHS = 12
"""Of one theme that are compared with one another."""


@dataclass(frozen=True)
class Embedded:
    """What encoders say of documents."""

    theme: np.ndarray
    """[D, Z] posterior mean of the document latent."""
    features: np.ndarray
    """[D, F] mean of the pretrained encoder's sentence features."""
    paragraphs: list[np.ndarray]
    """[P, F] of every document: the same of its paragraphs (units above the lowest level)."""


@dataclass(frozen=True)
class Drift:
    """Cosine similarity of the encoder's mean features of each paragraph and of the theme's document, the features'
    common mean taken away: by document, in reading order."""

    written: list[list[float]]
    real: list[list[float]]
    """Of real documents' paragraphs and the rest of their own document; of a single paragraph there is none."""


@dataclass(frozen=True)
class Structure:
    """Means."""

    paragraphs_per_document: float
    sentences_per_paragraph: float
    words_per_sentence: float


def choose_themes(documents: Documents, count: int) -> Documents:
    """`count` documents, one of every source, evenly spread. Raises ValueError where there are fewer than two."""
    first = {source: row for row, source in reversed(list(enumerate(documents.source_ids)))}
    rows = sorted(first.values())
    if len(rows) < 2 or count < 2:
        raise ValueError(
            f"a theme is told from others, so there must be two: --themes is {count}, and the data have {len(rows)} "
            "source documents"
        )
    chosen = np.linspace(0, len(rows) - 1, min(count, len(rows))).round().astype(int)
    return documents.select([rows[place] for place in chosen])


def write_under_themes(
    model: HierarchicalTextVAE,
    themes: np.ndarray,
    num: int,
    seed: int,
    options: SamplingOptions,
    process: PartialState | None = None,
) -> list[list[GeneratedDocument]]:
    """`num` documents of each of the themes [T, Z]: the theme is held, all else is drawn, the structure too.

    Of several processes each writes a share, and all return the same.
    """
    process = process or PartialState()
    own = range(process.process_index, len(themes), process.num_processes)
    plans = [theme(torch.from_numpy(themes[row]), model.config.hierarchy) for row in own for _ in range(num)]
    draws = [row * num + number for row in own for number in range(num)]
    written = model.write(plans, seed=seed, options=options, draws=draws) if plans else []
    written = [replace(document, plan=_on_cpu(document.plan)) for document in written]
    return gather_in_order((row, written[place * num : (place + 1) * num]) for place, row in enumerate(own))


def _on_cpu(plan: DocumentPlan) -> DocumentPlan:
    """Where another process can read it."""
    return replace(plan, z={name: z.cpu() for name, z in plan.z.items()})


@torch.no_grad()
def embed(model: HierarchicalTextVAE, documents: Sequence[EncodedDocument]) -> Embedded:
    """One document at a time: they are few."""
    themes, means, paragraphs = [], [], []
    for document in documents:
        batch = model.batch([document])
        features = model.sentence_features(batch).float()
        above = max(len(batch.levels) - 2, 0)
        parent = batch.ancestor(len(batch.levels) - 1, above)
        themes.append(model.latents(batch)[model.theme_level].mean[0].float().cpu().numpy())
        means.append(features.mean(0).cpu().numpy())
        paragraphs.append(segment_mean(features, parent, len(batch.levels[above])).cpu().numpy())
    return Embedded(np.stack(themes), np.stack(means), paragraphs)


def agreement(written: np.ndarray, themes: np.ndarray, of: np.ndarray) -> float:
    """Share of the written documents [D, N] whose nearest theme [T, N] is number `of` [D], their own: by the cosine
    of what is left of them without the themes' mean, in units of the themes' spread."""
    centre, spread = themes.mean(0), np.maximum(themes.std(0), 1e-6)
    one, other = _unit((written - centre) / spread), _unit((themes - centre) / spread)
    return float(((one @ other.T).argmax(1) == of).mean())


def tfidf_agreement(written: Sequence[str], themes: Sequence[str], of: np.ndarray) -> float:
    """The same by the cosine of TF-IDF vectors, their statistics those of the themes' documents."""
    vectors = TfidfVectorizer(sublinear_tf=True, token_pattern=r"(?u)\w+")
    known = vectors.fit_transform(themes)
    return float(((vectors.transform(written) @ known.T).toarray().argmax(1) == of).mean())


def _unit(values: np.ndarray) -> np.ndarray:
    return values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-12)


def drift(written: Embedded, real: Embedded, of: np.ndarray) -> Drift:
    """`of` [D]: the number of the real document whose theme each written one was given."""
    centre = real.features.mean(0)
    sought = _unit(real.features - centre)
    found = [
        (_unit(rows - centre) @ sought[number]).tolist() for rows, number in zip(written.paragraphs, of, strict=True)
    ]
    beside = []
    for rows in real.paragraphs:
        if len(rows) > 1:
            others = (rows.sum(0) - rows) / (len(rows) - 1)
            beside.append((_unit(rows - centre) * _unit(others - centre)).sum(1).tolist())
    return Drift(found, beside)


class Judge:
    """A causal language model that had no part in the writing."""

    def __init__(self, name: str, device: torch.device) -> None:
        """Raises OSError if it cannot be found."""
        path = resolve_backbone(name)
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
        self.model = nn.Module.to(model, device)
        self.tokenizer = AutoTokenizer.from_pretrained(path)
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        self.max_tokens = min(JUDGED_TOKENS, positions or JUDGED_TOKENS)

    @torch.no_grad()
    def nats_per_token(self, texts: Iterable[str]) -> float:
        """Over all tokens but the first of each document, up to `JUDGED_TOKENS` of it."""
        nats, tokens = [], 0
        for text in texts:
            ids = self.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids[:, : self.max_tokens]
            if ids.shape[1] > 1:
                ids = ids.to(self.model.device)
                logits = self.model(ids[:, :-1]).logits[0].float()
                nats.append(functional.cross_entropy(logits, ids[0, 1:], reduction="sum").item())
                tokens += ids.shape[1] - 1
        return math.fsum(nats) / tokens if tokens else math.nan


def self_bleu(groups: Iterable[Sequence[str]]) -> float:
    """Mean BLEU of a text of a group against another of the same group, so that it does not depend on how many there
    are (as self-BLEU with all others as references does, Zhu et al. 2018). NaN where no group has two."""
    bleu = BLEU(effective_order=True)
    scores = [
        bleu.sentence_score(one, [other]).score
        for group in groups
        for place, one in enumerate(group[:BLEU_PARAGRAPHS])
        for rank, other in enumerate(group[:BLEU_PARAGRAPHS])
        if place != rank
    ]
    return fmean(scores) if scores else math.nan


def distinct(texts: Sequence[str], order: int, words: int) -> float:
    """Distinct n-grams over all n-grams (Li et al. 2016) of the first `words` words: it falls with the length."""
    kept = list(chain.from_iterable(map(_words, texts)))[:words]
    grams = list(_ngrams(kept, order))
    return len(set(grams)) / len(grams) if grams else math.nan


def copied(groups: Mapping[str, Sequence[str]], training: Iterable[str]) -> dict[str, float]:
    """By name, the share of the texts' runs of `NGRAM` words that the training texts contain: these are read once."""
    grams = {
        name: list(chain.from_iterable(_ngrams(_words(text), NGRAM) for text in texts))
        for name, texts in groups.items()
    }
    sought = set(chain.from_iterable(grams.values()))
    seen: set[tuple[str, ...]] = set()
    for text in training:
        seen.update(gram for gram in _ngrams(_words(text), NGRAM) if gram in sought)
    return {name: fmean(gram in seen for gram in of) if of else math.nan for name, of in grams.items()}


def structure(documents: Sequence[EncodedDocument]) -> Structure:
    paragraphs = [list(document.structure[-1]) if len(document.structure) else [1] for document in documents]
    sentences = sum(len(document.sentences) for document in documents)
    return Structure(
        fmean(map(len, paragraphs)),
        sentences / sum(map(len, paragraphs)),
        sum(document.num_words for document in documents) / sentences,
    )


def _words(text: str) -> list[str]:
    return text.lower().split()


def _ngrams(words: Sequence[str], order: int) -> Iterator[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(order)), strict=False)
