"""From plans to text: all context windows that can be written now are written side by side.

Text is written in *windows*: runs of sentences that see one another and nothing else. The rows of the decoder's cache
are windows that began together, one token of each a step, so nothing is padded and every row is what it would be
alone. Rows that are done leave; a document that goes on behind a full window waits for the next batch.

Shapes: N runs, R rows, T tokens of a row so far, S sentences, H hidden size, E stop heads of the decoder.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import DynamicCache

from textvae.model.noise import KeyedNoise
from textvae.model.structure import child_counts
from textvae.model.vae import DocumentVAE
from textvae.writing.complete import complete_plans, document_keys
from textvae.writing.cursor import UNLISTED, Cursor
from textvae.writing.draw import TokenSampler
from textvae.writing.options import SamplingOptions
from textvae.writing.plan import DocumentPlan, Tokens

SENTENCES_OF_A_UNIT = 1 << 20
"""More than a unit has: numbers sentences within units for the noise."""


@dataclass(frozen=True)
class WrittenDocument:
    sentences: list[list[int]]
    """Token ids of every sentence, without start and end."""
    structure: list[list[int]]
    """As `EncodedDocument.structure`: number of children of every unit, by level, top first."""
    plan: DocumentPlan = field(compare=False)
    """What was written: every unit with its z, all structure, and the sentences' tokens."""


@torch.no_grad()
def write_documents(
    model: DocumentVAE,
    plans: Sequence[DocumentPlan],
    options: SamplingOptions,
    seed: int,
    draws: Sequence[int] | None = None,
    progress: bool | None = False,
) -> list[WrittenDocument]:
    """Complete the plans and write their text.

    A document is a function of its plan, `seed` and its number in `draws` (default: 0, 1, 2, ...), whatever it is
    written beside; plans with the same number share their noise. progress: whether to show a bar on standard error
    (None: if that is a terminal).
    """
    draws = range(len(plans)) if draws is None else draws
    noise, keys = KeyedNoise(seed), document_keys(draws, model.device)
    return write_plans(model, complete_plans(model, plans, keys, noise, options), keys, noise, options, progress)


@torch.no_grad()
def write_plans(
    model: DocumentVAE,
    plans: Sequence[DocumentPlan],
    keys: Tensor,
    noise: KeyedNoise,
    options: SamplingOptions,
    progress: bool | None = False,
) -> list[WrittenDocument]:
    """Write the text of completed plans; keys: [documents] of their noise; progress: as in `write_documents`."""
    writer = _Writer(model, plans, keys, noise, options)
    hide = None if progress is None else not progress
    with tqdm(total=writer.num_units, unit=writer.unit_name, desc="writing", leave=False, disable=hide) as bar:
        return writer.write(bar)


@dataclass
class _Run:
    """Sentences of one document that are written one after the other, in one window or several."""

    document: int
    unit: int
    """The planned unit that is being written: of the lowest level whose units are known beforehand."""
    stop: int
    """The planned unit before which the run ends."""
    within: int = 0
    """Sentences so far of the unit."""
    sentences: list[list[int]] = field(default_factory=list)
    words: list[int] = field(default_factory=list)
    """The sentence that is being written."""
    labels: list[Tensor] = field(default_factory=list)
    """[E] for every sentence."""


class _Writer:
    def __init__(
        self,
        model: DocumentVAE,
        plans: Sequence[DocumentPlan],
        keys: Tensor,
        noise: KeyedNoise,
        options: SamplingOptions,
    ) -> None:
        self.model, self.plans, self.keys, self.noise, self.options = model, plans, keys, noise, options
        self.decoder, self.layout = model.decoder, model.layout
        hierarchy = model.config.hierarchy
        self.topic_weight = options.checked_topic_weight(self.decoder.topic_head is not None)
        self.sampler = TokenSampler(options, self.layout.end_id)
        self.heads = model.hierarchy.stop_heads.decoder
        self.streams = [f"end of {hierarchy[depth]}" for depth in self.heads]
        self.lowest, self.context = len(hierarchy) - 1, hierarchy.index(self.layout.context)
        self.planned = self.lowest - len(self.heads)
        """Depth of the lowest level whose units are known beforehand."""
        self.ancestors = [
            {name: plan.ancestors(self.planned, plan.depth(name)).tolist() for name in model.level_names}
            for plan in plans
        ]
        self.runs = [run for number, plan in enumerate(plans) for run in self._runs_of(number, plan)]
        document = torch.tensor([run.document for run in self.runs], device=model.device)
        unit = torch.tensor([run.unit for run in self.runs], device=model.device)
        self.cursor = Cursor(plans, self.planned, self.lowest, document, unit, options.max_children)

    def _runs_of(self, number: int, plan: DocumentPlan) -> list[_Run]:
        """One for every unit that shares no window with others."""
        whole = plan.ancestors(self.planned, min(self.planned, self.context))
        borders = torch.bincount(whole).cumsum(0).tolist()
        return [_Run(number, start, stop) for start, stop in zip([0, *borders], borders, strict=False)]

    @property
    def num_units(self) -> int:
        """Planned units, of all documents."""
        return sum(run.stop - run.unit for run in self.runs)

    @property
    def unit_name(self) -> str:
        return self.model.config.hierarchy[self.planned]

    def write(self, bar: tqdm) -> list[WrittenDocument]:
        """`bar`: of the planned units."""
        waiting = deque(range(len(self.runs)))
        while waiting:
            rows = [waiting.popleft() for _ in range(min(self._parallel_rows, len(waiting)))]
            waiting.extend(self._write_windows(rows, bar))
        return [self._document(number, plan) for number, plan in enumerate(self.plans)]

    @property
    def _parallel_rows(self) -> int:
        """As many as the memory holds if every window grows as long as it can."""
        longest = self.options.max_sentence_tokens + 1
        if self.context < self.lowest:
            longest += self.layout.context_tokens
        return max(1, self.options.batch_tokens // longest)

    def _write_windows(self, rows: list[int], bar: tqdm) -> list[int]:
        """One window of each of the runs `rows`; returns those that go on in another window."""
        device = self.model.device
        cache = DynamicCache(config=self.decoder.backbone.config)
        ids = torch.full((len(rows), 1), self.layout.start_id, device=device)
        vectors = self._vectors(rows)
        writing, unfinished = [True] * len(rows), []
        while True:
            logits, stop_logits = self.decoder.step(ids[:, -1:], vectors, cache, ids.shape[1] - 1, self.topic_weight)
            tokens = self._tokens(rows, ids, logits)
            ended = [row for row in range(len(rows)) if writing[row] and self._read(rows[row], tokens[row])]
            if ended:
                changed = self._end_sentences([rows[row] for row in ended], stop_logits[ended])
                bar.update(changed.count(self.planned))
                for row, depth in zip(ended, changed, strict=True):
                    tokens[row] = self.layout.start_id
                    run = self.runs[rows[row]]
                    is_full = depth <= self.context or ids.shape[1] >= self.layout.context_tokens
                    writing[row] = run.unit < run.stop and not is_full
                    if run.unit < run.stop and is_full:
                        unfinished.append(rows[row])
                if not any(writing):
                    return unfinished
                going_on = [row for row in ended if writing[row]]
                fresh = self._vectors([rows[row] for row in going_on]) if going_on else None
                if vectors is not None and fresh is not None:
                    vectors[:, going_on] = fresh
            ids = torch.cat([ids, torch.tensor(tokens, device=device)[:, None]], dim=1)
            # The cache is copied when rows leave: worth it for some at a time.
            if 8 * writing.count(False) >= len(rows):
                kept = torch.tensor([row for row, is_on in enumerate(writing) if is_on], device=device)
                cache.batch_select_indices(kept)
                ids, vectors = ids[kept], None if vectors is None else vectors[:, kept]
                rows, writing = [rows[row] for row in kept.tolist()], [True] * len(kept)

    def _vectors(self, rows: Sequence[int]) -> Tensor | None:
        """[num_sites, R, H] for the sentences that the runs `rows` are at."""
        if self.decoder.conditioner is None:
            return None
        z = {}
        for name in self.model.level_names:
            units = [(self.runs[row].document, self.runs[row].unit) for row in rows]
            z[name] = torch.stack([self.plans[k].z[name][self.ancestors[k][name][unit]] for k, unit in units])
        return self.decoder.conditioner(z)

    def _tokens(self, rows: Sequence[int], ids: Tensor, logits: Tensor) -> list[int]:
        """The next token of every row: drawn, or what the plan holds the sentence to."""
        runs = [self.runs[row] for row in rows]
        place = torch.tensor([(run.document, self._sentence_number(run), len(run.words)) for run in runs]).T
        document, sentence, position = place.to(ids.device)
        uniform = self.noise.uniform(self.keys[document], "token", sentence, position)
        tokens: list[int] = self.sampler.draw(ids, logits, uniform).tolist()
        for row, run in enumerate(runs):
            held = self._held_sentence(rows[row])
            if held is not None:
                tokens[row] = (*held, self.layout.end_id)[min(len(run.words), len(held))]
        return tokens

    def _sentence_number(self, run: _Run) -> int:
        return run.unit * SENTENCES_OF_A_UNIT + run.within

    def _held_sentence(self, row: int) -> Tokens | None:
        """Tokens of the sentence that run `row` is at, where its plan holds it."""
        run = self.runs[row]
        held = self.plans[run.document].sentences
        if held is None or run.unit == run.stop:
            return None
        listed = int(self.cursor.listed[self.lowest][row])
        return None if listed == UNLISTED else held[listed]

    def _read(self, row: int, token: int) -> bool:
        """Take in the next token of a run; whether it ends its sentence."""
        run, held = self.runs[row], self._held_sentence(row)
        longest = self.options.max_sentence_tokens if held is None else len(held)
        if token == self.layout.end_id or len(run.words) >= longest:
            return True
        run.words.append(token)
        return False

    def _end_sentences(self, rows: list[int], stop_logits: Tensor) -> list[int]:
        """End the sentences of the runs `rows` and decide what ends with them: for each the smallest depth, among those
        that the decoder decides and the planned one, of a unit that ends. stop_logits: [K, E]."""
        runs = [self.runs[row] for row in rows]
        keys = self.keys[torch.tensor([run.document for run in runs], device=stop_logits.device)]
        number = torch.tensor([self._sentence_number(run) for run in runs], device=stop_logits.device)
        chances = stop_logits.double().sigmoid().T
        drawn = [self.noise.uniform(keys, s, number) < chance for s, chance in zip(self.streams, chances, strict=True)]
        at = torch.tensor(rows, device=stop_logits.device)
        labels = self.cursor.labels(at, torch.stack(drawn, 1) if drawn else torch.zeros_like(stop_logits).bool())
        depths = []
        for run, row in zip(runs, labels.cpu(), strict=True):
            run.sentences.append(run.words)
            run.words, run.within = [], run.within + 1
            run.labels.append(row)
            num_ended = int((row == 1).sum())  # of the sentence's ancestors
            if num_ended == len(self.heads):
                run.unit, run.within = run.unit + 1, 0
            depths.append(self.lowest - num_ended)
        self.cursor.advance(at, labels, torch.tensor([run.unit for run in runs], device=at.device))
        return depths

    def _document(self, number: int, plan: DocumentPlan) -> WrittenDocument:
        runs = [run for run in self.runs if run.document == number]
        sentences = [words for run in runs for words in run.sentences]
        labels = torch.stack([label for run in runs for label in run.labels])
        children = list(plan.children)
        for column, depth in enumerate(self.heads):
            label = labels[:, column]
            children[depth - 1] = child_counts(label[label != 0] == 1)
        plan = replace(plan, children=tuple(children), sentences=tuple(tuple(words) for words in sentences))
        return WrittenDocument(sentences, plan.structure, plan)
