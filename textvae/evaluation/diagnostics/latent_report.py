"""What is reported of the latents: the keys of the file that eval/latents.py writes. Amounts are nats."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from textvae.evaluation.diagnostics.positions import PositionGain


@dataclass(frozen=True)
class LevelDiagnostics:
    """One level. Increases of the distortion (text and structure) are per unit of the level, their 95 % intervals
    paired by document and clustered by source; payoffs are per nat of the level's rate, None where there is none."""

    dims: int
    units: int
    active_units: int
    """Dimensions with Var((mean_q - mean_p) / std_p) > 0.01 over the units."""
    active_units_marginal: int
    """Dimensions with Var(mean_q) > 0.01 (Burda et al. 2016)."""
    variance_spectrum: list[float]
    """Var((mean_q - mean_p) / std_p) of every dimension, largest first."""
    rate_per_unit: float
    rate_per_document: float
    mutual_information: float
    """I(unit; z) under the aggregate posterior over the units (Hoffman & Johnson 2016)."""
    mutual_information_ceiling: float
    """log(units), which the estimate cannot exceed."""
    nll_increase_when_shuffled: float
    """With the level's samples exchanged between documents, the other levels' samples kept."""
    nll_increase_when_shuffled_interval: list[float]
    nll_increase_when_shuffled_structure: float
    """The structure's part of it (numbers of units and sentences); the rest is the text's."""
    nll_increase_when_zeroed: float
    """With the level's samples replaced by its prior's means, the other levels' samples kept.

    The prior mean is what the actual ancestors and structure let expect: zero at an N(0, I) root, below it each
    unit's mean given its ancestors and the means of the units before it. The literal zero vector would be a
    message of its own there, and an improbable one wherever the prior's mean is far from zero."""
    nll_increase_when_zeroed_interval: list[float]
    payoff: float | None
    """Increase of distortion and lower rates when the level is drawn from its prior and the levels below are
    inferred again, over the level's rate. A draw is a wrong message: it punishes a decoder that trusts the level,
    so this may be large for a model that would do as well without the level."""
    payoff_over_prior_mean: float | None
    """The same with the level at its prior mean: no message instead of a wrong one. Above 1 the level earns this
    decoder more than it costs; a decoder trained without the level may do better still."""


@dataclass(frozen=True)
class NllGain:
    """How much the NLL of tokens rises when a level's samples are exchanged between documents."""

    by_token_position: PositionGain
    """By the position of the token in its sentence."""
    by_unit_position: PositionGain
    """By the position in its document of the unit just below the root."""


@dataclass(frozen=True)
class LatentReport:
    documents: int
    sources: int
    """Source documents that they are, or are sections of: what intervals are clustered by."""
    tokens: int
    seed: int
    hierarchy: tuple[str, ...]
    """Names of the data's levels, top first."""
    levels: dict[str, LevelDiagnostics]
    nll_gain: dict[str, NllGain]
    """By level."""

    def to_json(self) -> dict[str, Any]:
        """The keys of the file contract."""
        return {
            "documents": self.documents,
            "sources": self.sources,
            "tokens": self.tokens,
            "seed": self.seed,
            "levels": {name: asdict(level) for name, level in self.levels.items()},
            "nll_gain": {name: self._gain(gain) for name, gain in self.nll_gain.items()},
        }

    def _gain(self, gain: NllGain) -> dict[str, Any]:
        found = {"by_token_position": asdict(gain.by_token_position)}
        if len(self.hierarchy) > 1:
            found["by_unit_position"] = {"level": self.hierarchy[1], **asdict(gain.by_unit_position)}
        return found
