"""One document under a trained model, as the estimators want it.

Shapes as in `sequential`: K particles, N leaves (sentences), L latent levels, D latent size, H hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from textvae.data.batch import TokenChunk
from textvae.data.collate import collate
from textvae.data.document import EncodedDocument
from textvae.evaluation.likelihood.sequential import LeafIncrement, UnitDraw
from textvae.model.hierarchy import structure_events
from textvae.model.level import LevelState, StructureScores
from textvae.model.noise import KeyedNoise
from textvae.model.vae import DocumentVAE
from textvae.training.objective import elbo_terms


@dataclass
class _LevelParticles:
    """One level's side of K particles."""

    prior: LevelState | None = None
    z: Tensor | None = None
    """[K, D] of the current unit."""
    below: Tensor | None = None
    """[K, width] top-down state under the current unit."""


@dataclass
class Particles:
    levels: list[_LevelParticles]
    count: int
    vectors: list[Tensor]
    """[num_sites, K, H] for every sentence of the stretch of text that the next sentence may look back on."""


class ModelDocument:
    """Implements `SequentialDocument` for a `DocumentVAE`; a document of any length, in chunks."""

    def __init__(self, model: DocumentVAE, document: EncodedDocument, seed: int = 0) -> None:
        self.model = model
        self.noise = KeyedNoise(seed)
        self.batch = collate([document], model.layout).to(model.device)
        self.lowest = len(self.batch.levels) - 1
        self.numbers = [self.batch.level_number(name) for name in model.level_names]
        with torch.no_grad():
            self.features = model.features(self.batch) or {}
        plan = model.hierarchy.plan
        self.unit_of_leaf = [self.batch.ancestor(self.lowest, number) for number in self.numbers]
        self.events = [structure_events(self.batch, number, plan.hosts[number]) for number in self.numbers]
        self.decoder_events = structure_events(self.batch, self.lowest, plan.decoder)
        self.stretch = _stretches(self)

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
        return Particles([_LevelParticles() for _ in self.numbers], num_particles, [])

    @torch.no_grad()
    def advance(self, state: Particles, leaf: int) -> tuple[Particles, LeafIncrement]:
        log_likelihood = torch.zeros(state.count, device=self.model.device)
        draws = {}
        above = torch.zeros(state.count, self.model.hierarchy.width, device=self.model.device)
        levels = []
        for order, particles in enumerate(state.levels):
            unit = int(self.unit_of_leaf[order][leaf])
            if leaf == 0 or unit != int(self.unit_of_leaf[order][leaf - 1]):
                particles, draws[order], structure = self._draw(order, particles, unit, above)
                log_likelihood = log_likelihood + structure
            levels.append(particles)
            above = above if particles.below is None else particles.below
        text, vectors = self._read(state, levels, leaf)
        log_likelihood = (log_likelihood + text).double().cpu()
        return Particles(levels, state.count, vectors), LeafIncrement(log_likelihood, draws)

    def select(self, state: Particles, indices: Tensor) -> Particles:
        indices = indices.to(self.model.device)
        levels = []
        for particles in state.levels:
            prior = None if particles.prior is None else particles.prior.select(indices)
            below = None if particles.below is None else particles.below[indices]
            levels.append(_LevelParticles(prior, None if particles.z is None else particles.z[indices], below))
        return Particles(levels, len(indices), [vectors[:, indices] for vectors in state.vectors])

    @torch.no_grad()
    def joint_log_weights(self, num_samples: int, first_sample: int) -> Tensor:
        model = self.model
        copies = self.batch.copies(num_samples, first_sample, model.layout.chunk_tokens)
        features = {name: values.repeat(num_samples, 1) for name, values in self.features.items()} or None
        passed = model.hierarchy(features, copies, self.noise)
        terms = elbo_terms(model.score(passed, copies), copies)
        log_weights = -(terms.distortion_tokens + terms.distortion_structure).double()
        for name, level in passed.levels.items():
            ratio = (level.prior.log_prob(level.z) - level.posterior.log_prob(level.z)).double().sum(-1)
            document = copies.levels[copies.level_number(name)].document
            log_weights = log_weights.index_add(0, document, ratio)
        return log_weights.cpu()

    def _draw(
        self, order: int, particles: _LevelParticles, unit: int, above: Tensor
    ) -> tuple[_LevelParticles, UnitDraw, Tensor]:
        """Draw the next unit of a level from its posterior and score its structure events [K]."""
        name = self.model.level_names[order]
        level = self.model.hierarchy.stack[name]
        count = len(above)
        posterior = level.infer(self.features[name][unit].expand(count, -1), above)
        slots = torch.arange(count, device=above.device)
        key, number = self.batch.document_key.expand(count), torch.full_like(slots, unit)
        noise = self.noise.normal(key, name, number, level.latent_size, slots)
        z = posterior.sample(noise)
        prior_state = particles.prior or level.start(above)
        hidden, prior = level.next_prior(prior_state, above)
        log_ratio = (prior.log_prob(z) - posterior.log_prob(z)).double().sum(-1)
        events = self.events[order][unit].expand(count, -1)
        structure = StructureScores(level.structure_logits(hidden, z), events).log_prob
        level.commit(prior_state, z, events)
        below = None if level.descend is None else level.state_below(above, z, events)
        return (
            _LevelParticles(prior_state, z, below),
            UnitDraw(log_ratio.cpu(), noise.double().cpu()),
            structure,
        )

    def _read(self, state: Particles, levels: list[_LevelParticles], leaf: int) -> tuple[Tensor, list[Tensor]]:
        """Log-probability [K] of sentence `leaf`, and the vectors that later sentences look back on."""
        decoder = self.model.decoder
        first = self.stretch[leaf]
        sentences = list(range(first, leaf + 1))
        vectors: list[Tensor] = []
        if decoder.conditioner is not None:
            z = {name: part.z for name, part in zip(self.model.level_names, levels, strict=True)}
            vectors = [*(state.vectors if first < leaf else []), decoder.conditioner(z)]
        tokens = torch.cat([self._tokens(sentence) for sentence in sentences])
        place = torch.cat([torch.full_like(self._tokens(s), s - first) for s in sentences])
        own = len(self._tokens(leaf))
        scores = []
        for slots in torch.arange(state.count, device=tokens.device).split(
            max(1, self.model.layout.chunk_tokens // len(tokens))
        ):
            chunk = TokenChunk(
                ids=self._inputs(tokens).expand(len(slots), -1),
                sentence=torch.arange(len(slots), device=tokens.device)[:, None] * len(sentences) + place,
                token=tokens.expand(len(slots), -1),
            )
            stacked = torch.stack([v[:, slots] for v in vectors], dim=2).flatten(1, 2) if vectors else None
            log_prob, logits = decoder.score_chunk(chunk, stacked, None, self.batch.tokens)
            told = StructureScores(logits[:, -1], self.decoder_events[leaf].expand(len(slots), -1))
            scores.append(log_prob[:, -own:].sum(-1) + told.log_prob)
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


def _stretches(document: ModelDocument) -> list[int]:
    """First sentence that each sentence may look back on, as the batch lays them out."""
    first = [0] * document.num_leaves
    for chunk in document.batch.decoder_chunks:
        for sentence, token in zip(chunk.sentence, chunk.token, strict=True):
            members = sentence[token >= 0].unique().tolist()
            for member in members:
                first[member] = members[0]
    return first
