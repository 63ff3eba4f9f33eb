"""One document under a trained model, as the estimators want it.

Shapes as in `sequential`: K particles, N leaves (sentences), L latent levels, D latent size, H hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from textvae.data.batch import TokenChunk
from textvae.data.collate import collate
from textvae.data.document import EncodedDocument
from textvae.data.packing import IGNORED
from textvae.evaluation.likelihood.sequential import LeafIncrement, UnitDraw
from textvae.model.hierarchy import TopDownState
from textvae.model.level import StructureScores
from textvae.model.noise import KeyedNoise
from textvae.model.structure import stop_labels
from textvae.model.vae import DocumentVAE
from textvae.training.objective import elbo_terms


@dataclass
class Particles:
    count: int
    state: TopDownState
    z: dict[str, Tensor]
    """[K, D] of the current unit, by level."""
    vectors: list[Tensor]
    """[num_sites, K, H] for every sentence of the context window so far."""


class ModelDocument:
    """Implements `SequentialDocument` for a `DocumentVAE`; a document of any length, in chunks."""

    def __init__(self, model: DocumentVAE, document: EncodedDocument, seed: int = 0) -> None:
        self.model = model
        self.noise = KeyedNoise(seed)
        # A row for every sequence: what a sentence may look back on is read from them.
        self.batch = collate([document], replace(model.layout, row_tokens=0)).to(model.device)
        self.lowest = len(self.batch.levels) - 1
        depths = {name: self.batch.level_number(name) for name in model.level_names}
        with torch.no_grad():
            self.features = model.features(self.batch) or {}
        heads = model.hierarchy.stop_heads
        self.unit_of_leaf = [self.batch.ancestor(self.lowest, depth) for depth in depths.values()]
        self.labels = {name: stop_labels(self.batch, depth, heads.by_level[depth]) for name, depth in depths.items()}
        self.decoder_labels = stop_labels(self.batch, self.lowest, heads.decoder)
        self.window_start = _window_starts(self)

    @property
    def num_leaves(self) -> int:
        return len(self.batch.levels[-1])

    @property
    def exposure(self) -> Tensor:
        """[L, N] fraction of each unit's tokens that has been scored after each of its sentences."""
        tokens = torch.bincount(self.batch.token_sentence, minlength=self.num_leaves).double()
        rows = []
        for unit in self.unit_of_leaf:
            total = torch.zeros(int(unit.max()) + 1, dtype=torch.float64).index_add(0, unit.cpu(), tokens.cpu())
            before = total.cumsum(0) - total
            rows.append((tokens.cpu().cumsum(0) - before[unit.cpu()]) / total[unit.cpu()])
        return torch.stack(rows).float() if rows else torch.zeros(0, self.num_leaves)

    def start(self, num_particles: int) -> Particles:
        return Particles(num_particles, self.model.hierarchy.start(num_particles, self.model.device), {}, [])

    @torch.no_grad()
    def advance(self, state: Particles, leaf: int) -> tuple[Particles, LeafIncrement]:
        log_likelihood = torch.zeros(state.count, device=self.model.device)
        draws = {}
        z = dict(state.z)
        for order, name in enumerate(self.model.level_names):
            unit = int(self.unit_of_leaf[order][leaf])
            if leaf == 0 or unit != int(self.unit_of_leaf[order][leaf - 1]):
                z[name], draws[order], structure = self._draw(state.state, name, unit)
                log_likelihood = log_likelihood + structure
        text, vectors = self._read(state, z, leaf)
        log_likelihood = (log_likelihood + text).double().cpu()
        return Particles(state.count, state.state, z, vectors), LeafIncrement(log_likelihood, draws)

    def select(self, state: Particles, indices: Tensor) -> Particles:
        indices = indices.to(self.model.device)
        return Particles(
            len(indices),
            state.state.select(indices),
            {name: values[indices] for name, values in state.z.items()},
            [vectors[:, indices] for vectors in state.vectors],
        )

    @torch.no_grad()
    def joint_log_weights(self, num_samples: int, first_sample: int) -> Tensor:
        model = self.model
        copies = self.batch.copies(num_samples, first_sample, model.layout.chunk_tokens)
        features = {name: values.repeated(num_samples) for name, values in self.features.items()} or None
        passed = model.hierarchy(features, copies, self.noise)
        terms = elbo_terms(model.score(passed, copies), copies)
        log_weights = -(terms.distortion_tokens + terms.distortion_structure).double()
        for name, level in passed.levels.items():
            ratio = (level.prior.log_prob(level.z) - level.posterior.log_prob(level.z)).double().sum(-1)
            document = copies.levels[copies.level_number(name)].document
            log_weights = log_weights.index_add(0, document, ratio)
        return log_weights.cpu()

    def _draw(self, state: TopDownState, name: str, unit: int) -> tuple[Tensor, UnitDraw, Tensor]:
        """Draw the next unit of a level from its posterior: z, how it was drawn, and its structure's score [K]."""
        level = self.model.hierarchy.stack[name]
        above = state.above(name)
        count = len(above)
        posterior = level.infer(self.features[name].of(unit).repeated(count), above)
        slots = torch.arange(count, device=above.device)
        key, index = self.batch.document_key.expand(count), torch.full_like(slots, unit)
        noise = self.noise.normal(key, name, index, level.latent_size, slots)
        z = posterior.sample(noise)
        log_ratio = (state.prior(name).log_prob(z) - posterior.log_prob(z)).double().sum(-1)
        labels = self.labels[name][unit].expand(count, -1)
        structure = StructureScores(state.stop_logits(name, z), labels).log_prob
        state.commit(name, z, labels)
        return z, UnitDraw(log_ratio.cpu(), noise.double().cpu()), structure

    def _read(self, state: Particles, z: dict[str, Tensor], leaf: int) -> tuple[Tensor, list[Tensor]]:
        """Log-probability [K] of sentence `leaf`, and the vectors that later sentences look back on."""
        decoder = self.model.decoder
        first = self.window_start[leaf]
        sentences = list(range(first, leaf + 1))
        vectors: list[Tensor] = []
        if decoder.conditioner is not None:
            vectors = [*(state.vectors if first < leaf else []), decoder.conditioner(z)]
        tokens = torch.cat([self._tokens(sentence) for sentence in sentences])
        place = torch.cat([torch.full_like(self._tokens(s), s - first) for s in sentences])
        scores = []
        for slots in torch.arange(state.count, device=tokens.device).split(
            max(1, self.model.layout.chunk_tokens // len(tokens))
        ):
            chunk = TokenChunk.of(
                ids=self._inputs(tokens).expand(len(slots), -1),
                sentence=torch.arange(len(slots), device=tokens.device)[:, None] * len(sentences) + place,
                token=torch.where(place == leaf - first, tokens, IGNORED).expand(len(slots), -1),
            )
            stacked = torch.stack([v[:, slots] for v in vectors], dim=2).flatten(1, 2) if vectors else None
            log_prob, logits = decoder.score_chunk(
                chunk, stacked, decoder.topic_logits(stacked), None, self.batch.tokens
            )
            at_end = logits.unflatten(0, (len(slots), -1))[:, -1]
            structure = StructureScores(at_end, self.decoder_labels[leaf].expand(len(slots), -1))
            scores.append(log_prob.view(len(slots), -1).sum(-1) + structure.log_prob)
        return torch.cat(scores), vectors

    def _tokens(self, sentence: int) -> Tensor:
        """Numbers of the predicted tokens of a sentence."""
        start = 0 if sentence == 0 else int(self.batch.sentence_end[sentence - 1]) + 1
        return torch.arange(start, int(self.batch.sentence_end[sentence]) + 1, device=self.batch.tokens.device)

    def _inputs(self, tokens: Tensor) -> Tensor:
        """Input ids before each of the predicted `tokens` (numbers)."""
        before = self.batch.tokens[(tokens - 1).clamp(min=0)]
        starts = torch.cat([self.batch.sentence_end.new_zeros(1), self.batch.sentence_end[:-1] + 1])
        return torch.where(torch.isin(tokens, starts), self.model.layout.start_id, before)


def _window_starts(document: ModelDocument) -> list[int]:
    """First sentence that each sentence may look back on, as the batch lays them out."""
    first = [0] * document.num_leaves
    for chunk in document.batch.decoder_chunks:
        for sentence, token in zip(chunk.sentence.expand_as(chunk.token), chunk.token, strict=True):
            members = sentence[token >= 0].unique().tolist()
            for member in members:
                first[member] = members[0]
    return first
