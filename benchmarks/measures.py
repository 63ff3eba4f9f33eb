"""What every part of the work takes, and what the backbone alone would take for the same rows: its floor.

Each function runs in a process of its own, so that its peak of memory is its own. Tokens are the decoder's, sentence
ends included. Seconds are those of the clock on an accelerator, of the processor on a CPU, all threads together: what
else is running there counts less.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import PartialState
from peers import gauge
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from textvae.build import FrozenEncoder, build_model
from textvae.cli.common import BATCH_TOKENS
from textvae.config import Config
from textvae.data.batch import DocumentBatch, EncoderChunk, TokenChunk
from textvae.data.dataset import Documents, PreparedSplit, load_prepared
from textvae.data.loader import TrainingSteps, evaluation_groups, walk_groups
from textvae.data.plan import BatchPlan, fill
from textvae.data.prepare.pipeline import PrepareOptions, prepare
from textvae.data.text.processor import DocumentProcessor
from textvae.devices import best_precision, choose_device
from textvae.evaluation.likelihood.perplexity import score_documents
from textvae.model.backbone import output_logits
from textvae.runs import RunFolder, load_run, versions
from textvae.search.embed import embed_corpus
from textvae.text_vae import HierarchicalTextVAE
from textvae.training.loop import train
from textvae.writing.decode import write_documents
from textvae.writing.operations import structured
from textvae.writing.options import SamplingOptions
from textvae.writing.plan import open_plan

WARM_UP = 2
"""Steps and chunks that are not counted."""
ROUNDS = 3
"""Of training, whose steps are a difference of two runs."""
PLAIN = 20
"""Times as many documents for what is read without a model, which is faster."""
SENTENCE = 24
"""Tokens of a sentence that is written, at most."""


@dataclass(frozen=True)
class Job:
    config: Config
    source: str
    limit: int
    """Documents of the source."""
    vocabulary_size: int
    """Where the decoder has no name."""
    folder: Path
    """Of the data and the run."""

    @property
    def run(self) -> Path:
        return self.folder / "run"

    def documents(self) -> Documents:
        """With the encoder's states."""
        return load_prepared(self.config.data.path, "train").documents


@dataclass(frozen=True)
class Measured:
    tokens: int
    seconds: float
    peak_bytes: int
    """Of the device's memory; on a CPU, of the process, its libraries included."""
    padding: float | None = None
    """Share of the places in the backbone's rows that hold no token."""
    floor_seconds: float | None = None
    """That the backbone alone takes for the same rows."""


def preparation(job: Job) -> Measured:
    """Source -> segmented, tokenised data."""
    return _prepared(job, replace(_options(job), out=str(job.folder / "plain"), limit=PLAIN * job.limit))


def features(job: Job) -> Measured:
    """The same with the encoder's states of every sentence."""
    encoder = FrozenEncoder.pretrained(job.config.model.encoder.name)
    return _prepared(job, replace(_options(job), cache_features=True), encoder)


def _options(job: Job) -> PrepareOptions:
    model = job.config.model
    return PrepareOptions(
        job.source,
        job.config.data.path,
        encoder=model.encoder.name,
        decoder=model.decoder.name,
        vocabulary_size=job.vocabulary_size,
        limit=job.limit,
        max_document_sentences=32,
    )


def _prepared(job: Job, options: PrepareOptions, encoder: FrozenEncoder | None = None) -> Measured:
    began = now()
    prepare(options, encoder, None if encoder is None else encoder.fingerprint)
    seconds = now() - began
    splits = (load_prepared(options.out, split) for split in ("train", "validation", "test"))
    return Measured(sum(int(split.token_counts.sum()) for split in splits), seconds, peak_bytes())


def training(job: Job) -> Measured:
    """Optimiser steps, as `train.py` takes them, beyond those of a run that ends after `WARM_UP`; the floor is the
    decoder's forward and backward pass. Medians of `ROUNDS`, once a first run and a first pass have met all shapes: in
    bfloat16 a processor compiles kernels for each."""
    train(job.config)
    peak = peak_bytes()
    seen = [record["tokens_seen"] for record in RunFolder(job.run).records() if record["split"] == "train"]

    split = load_prepared(job.config.data.path, "train")
    model = in_training(job.config, split.processor)
    batches = batches_of_steps(job.config, split, model, job.config.train.steps)

    def step(batches: Iterable[DocumentBatch]) -> None:
        for batch in batches:
            for chunk in batch.decoder_chunks:
                decoder_loss(model.decoder.backbone, chunk, batch.tokens).backward()
        model.zero_grad()

    def again(steps: int) -> float:
        with TemporaryDirectory() as folder:
            repeated = replace(job.config.train, steps=steps, output=f"{folder}/run")
            return timed(train, [replace(job.config, train=repeated)])

    timed(step, batches)
    counted = batches[WARM_UP:]
    rounds = [(again(len(batches)) - again(WARM_UP), timed(step, counted)) for _ in range(ROUNDS)]
    seconds, floor = map(median, zip(*rounds, strict=True))
    chunks = (chunk for parts in counted for batch in parts for chunk in batch.decoder_chunks)
    return Measured(seen[-1] - seen[WARM_UP - 1], seconds, peak, _padding(chunks), floor)


def embedding(job: Job) -> Measured:
    """An index of all levels, of documents whose states are not known; the floor is the encoder's forward pass."""
    model, known = load_run(job.run), job.documents()
    documents = replace(known, read=lambda row: replace(known.read(row), features=None))
    began = now()
    embed_corpus(model, documents, job.folder / "index", str(job.run))
    seconds, peak = now() - began, peak_bytes()
    in_order = fill(np.arange(len(documents)), documents.token_counts, BATCH_TOKENS)
    batches = _batches(model, documents, [group.tolist() for group in in_order])
    chunks = [chunk for batch in batches for chunk in batch.encoder_chunks]
    assert model.encoder is not None
    backbone = model.encoder.backbone

    @torch.no_grad()
    def encode(chunk: EncoderChunk) -> None:
        backbone(input_ids=chunk.ids, attention_mask=chunk.mask)

    empty = 1 - sum(int(c.mask[c.sentence >= 0].sum()) for c in chunks) / sum(c.mask.numel() for c in chunks)
    timed(encode, chunks[:WARM_UP])
    return Measured(int(documents.token_counts.sum()), seconds, peak, empty, timed(encode, chunks))


def likelihood(job: Job) -> Measured:
    """The ELBO of every document, the encoder's states known; the floor is the decoder's forward pass."""
    model, documents = load_run(job.run), job.documents()
    began = now()
    score_documents(model, documents, "elbo", 1)
    seconds, peak = now() - began, peak_bytes()
    batches = list(_batches(model, documents, evaluation_groups(documents.token_counts, BATCH_TOKENS)))

    @torch.no_grad()
    def score(batch: DocumentBatch) -> None:
        for chunk in batch.decoder_chunks:
            decoder_loss(model.decoder.backbone, chunk, batch.tokens, fast=False)

    timed(score, batches[:1])
    padding = _padding(chunk for batch in batches for chunk in batch.decoder_chunks)
    return Measured(int(documents.token_counts.sum()), seconds, peak, padding, timed(score, batches))


def generation(job: Job) -> Measured:
    """Four documents of fifty sentences, written side by side, drawn as the model has them: under top-p one that has
    hardly been trained has its whole vocabulary sorted, others a little of it. The floor is the decoder's steps, one
    for each place in a sentence, all rows at a time."""
    model = load_run(job.run)
    hierarchy = model.config.hierarchy
    shape = {hierarchy[-1]: [5]} if len(hierarchy) < 3 else {hierarchy[-2]: [10], hierarchy[-1]: [5]}
    plans = [structured(open_plan(hierarchy), shape)] * 4
    options = SamplingOptions(max_sentence_tokens=SENTENCE, temperature=1, top_p=1)
    began = now()
    written = write_documents(model, plans, options, seed=0)
    seconds, peak = now() - began, peak_bytes()
    sentences = [words for document in written for words in document.sentences]
    longest = max(map(len, sentences)) + 1
    backbone = model.decoder.backbone
    ids = torch.zeros(len(sentences), 1, dtype=torch.long, device=model.device)

    @torch.no_grad()
    def write(count: int) -> None:
        cache = DynamicCache(config=backbone.config)
        for _ in range(count):
            backbone(input_ids=ids, past_key_values=cache, use_cache=True).logits[:, -1].argmax(-1)

    timed(write, [1])
    return Measured(sum(map(len, sentences)) + len(sentences), seconds, peak, None, timed(write, [longest]))


def decoder_loss(backbone: PreTrainedModel, chunk: TokenChunk, tokens: Tensor, fast: bool = True) -> Tensor:
    """The least that gives a loss: no latents, no masks, logits of predicted tokens only; `fast`: in training's
    precision."""
    device = chunk.ids.device
    bfloat16 = fast and best_precision(device) == "bf16"
    embedded = backbone.get_input_embeddings()(chunk.ids)
    if torch.is_grad_enabled():
        embedded.requires_grad_()  # of a frozen decoder, too: gradients pass through it to the latents
    with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
        states = backbone.base_model(inputs_embeds=embedded, use_cache=False).last_hidden_state
        logits = output_logits(backbone, states.flatten(0, 1)[chunk.scored])
    return F.cross_entropy(logits.float(), tokens[chunk.token.flatten()[chunk.scored]], reduction="sum")


def _batches(model: HierarchicalTextVAE, documents: Documents, groups: Sequence[list[int]]) -> Iterator[DocumentBatch]:
    for group in walk_groups(documents.read, groups, model.layout, model.device, process=PartialState()):
        yield group.batch


def _padding(chunks: Iterable[TokenChunk]) -> float:
    filled, places = 0, 0
    for chunk in chunks:
        filled, places = filled + len(chunk.scored), places + chunk.ids.numel()
    return 1 - filled / places


def timed(do: Callable[[Any], object], things: Iterable[Any]) -> float:
    """Seconds to do all the things, one after the other."""
    began = now()
    for thing in things:
        do(thing)
    return now() - began


def now() -> float:
    """Seconds, once the device has done what it was given."""
    return gauge.now(choose_device().type)


def peak_bytes() -> int:
    return gauge.peak_bytes(choose_device().type)


def in_training(config: Config, processor: DocumentProcessor) -> HierarchicalTextVAE:
    """The configuration's model as it is when training begins, on the device that is used, the same every time."""
    torch.manual_seed(0)
    model = build_model(config.model, processor)
    nn.Module.to(model, choose_device()).train()
    model.set_chunk_tokens(config.data.micro_batch_tokens)
    return model


def batches_of_steps(
    config: Config, split: PreparedSplit, model: HierarchicalTextVAE, steps: int
) -> list[list[DocumentBatch]]:
    """The micro-batches of training's first steps."""
    found = TrainingSteps(
        split.read,
        BatchPlan(split.token_counts, config.data.batch_tokens, config.train.seed),
        model.layout,
        steps=steps,
        micro_batch_tokens=config.data.micro_batch_tokens,
        process=0,
        num_processes=1,
    )
    return [[batch.to(model.device) for batch in found[step].batches] for step in range(steps)]


def facts() -> dict[str, Any]:
    """Where something was measured, for its file."""
    allocator = {name: value for name, value in os.environ.items() if name.startswith("MALLOC_")}
    threads = torch.get_num_threads()
    return {"device": str(choose_device()), "threads": threads, "allocator": allocator, "versions": versions()}


MEASURES: dict[str, Callable[[Job], Measured]] = {
    measure.__name__: measure for measure in (preparation, features, training, embedding, likelihood, generation)
}
"""In this order: each may use what those before it have made."""
