"""How text is drawn, and which numbers make sense."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

RANGES: dict[str, tuple[float, float, str]] = {
    "temperature": (1e-3, 1e3, "0 (greedy) or between 0.001 and 1000"),
    "top_p": (1e-6, 1.0, "above 0 and at most 1"),
    "top_k": (1, 2**31, "0 (off) or more"),
    "min_p": (1e-6, 1.0, "between 0 (off) and 1"),
    "repetition_penalty": (1e-3, 1e3, "between 0.001 and 1000; 1 is off"),
    "no_repeat_ngram": (1, 2**31, "0 (off) or more"),
    "latent_temperature": (1e-6, 1e3, "between 0 (prior means) and 1000"),
    "topic_weight": (1e-6, 1e3, "between 0 (no topics) and 1000"),
    "max_sentence_tokens": (1, 2**31, "1 or more"),
    "max_children": (1, 2**31, "1 or more"),
    "batch_tokens": (1, 2**62, "1 or more"),
    "num": (1, 2**31, "1 or more"),
    "steps": (2, 2**31, "2 or more: both ends are written"),
    "best_of": (1, 2**31, "1 or more"),
    "seed": (0, 2**63 - 1, "between 0 and 2^63 - 1"),
}
"""Name -> smallest, largest and both in words."""
MAY_BE_ZERO = ("temperature", "top_k", "min_p", "no_repeat_ngram", "latent_temperature", "topic_weight")


def check_range(name: str, value: float, shown: str | None = None) -> None:
    """Raises ValueError when `value` is no good for `name` (a key of `RANGES`), which the message calls `shown`."""
    low, high, words = RANGES[name]
    if not (low <= value <= high or (value == 0 and name in MAY_BE_ZERO)):
        raise ValueError(f"{shown or name} is {value}; it must be {words}")


@dataclass(frozen=True)
class SamplingOptions:
    """Raises ValueError for numbers that make no sense."""

    temperature: float = 0.7
    """Of the tokens; 0 takes the most probable token always, 1 with `top_p` 1 draws as the model has it. The default is
    what kept to its theme and read best of what was measured."""
    top_p: float = 0.9
    """Only the most probable tokens that make up this probability are drawn (Holtzman et al. 2020); 1: all."""
    top_k: int = 0
    """Only so many of the most probable tokens are drawn; 0: no bound."""
    min_p: float = 0.0
    """Only tokens of at least this share of the best one's probability are drawn (Nguyen et al. 2024)."""
    repetition_penalty: float = 1.0
    """Divides the logits of tokens that the context window holds already (Keskar et al. 2019)."""
    no_repeat_ngram: int = 0
    """No run of so many tokens comes twice in a context window; 0: no bound."""
    latent_temperature: float | Mapping[str, float] = 1.0
    """Scales the standard deviation of latents that are drawn from their priors: of all levels, or by level, where a
    level that is not named has 1."""
    topic_weight: float = 1.0
    """Of the latents' own path to the logits, times the weight that it was trained with: above 1 the words of the
    planned topics come more often, at 0 only the decoder's states tell of the latents."""
    max_sentence_tokens: int = 128
    max_children: int = 64
    """A unit is ended after this many children."""
    best_of: int = 1
    """Versions of every part that are written, of which those are kept with which the encoder reads the text most as it
    was planned (`writing.best_of`)."""
    batch_tokens: int = 16384
    """Tokens that the decoder's memory may hold at a time: the context windows written side by side."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, Mapping):
                for level, of_level in value.items():
                    check_range(name, of_level, f"{name} of '{level}'")
            else:
                check_range(name, value)

    def latent_temperatures(self, levels: Sequence[str]) -> dict[str, float]:
        """By level, of those that a model has latents at. Raises ValueError where another one is named."""
        if not isinstance(self.latent_temperature, Mapping):
            return dict.fromkeys(levels, self.latent_temperature)
        for level in self.latent_temperature:
            if level not in levels:
                raise ValueError(
                    f"latent_temperature names '{level}', but the model has latents at levels {list(levels)}"
                )
        return {level: self.latent_temperature.get(level, 1.0) for level in levels}

    def checked_topic_weight(self, has_topics: bool) -> float:
        """Raises ValueError where it is not 1 and the model has no topics."""
        if self.topic_weight != 1 and not has_topics:
            raise ValueError(
                f"topic_weight is {self.topic_weight}, but this model has no topics (model.decoder.logit_rank is 0, or "
                "it has no levels): leave it at 1"
            )
        return self.topic_weight
