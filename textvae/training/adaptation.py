"""Making a trained model at home in another corpus: its latents learn the new text, its decoder stays as it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from textvae.config import Config, DataConfig, ObjectiveConfig, RatePolicy, TrainConfig
from textvae.text_vae import HierarchicalTextVAE

VALIDATIONS = 4


@dataclass(frozen=True)
class AdaptationOptions:
    steps: int = 200
    batch_tokens: int = 16384
    """Predicted tokens of an optimiser step, and of a forward pass."""
    learning_rate: float = 1e-3
    similarity: float = 5.0
    """`objective.similarity`: what a difference from the encoder's similarities costs beside a nat per token."""
    seed: int = 0


def adaptation(
    model: HierarchicalTextVAE, start_from: str, data: Path, output: Path, options: AdaptationOptions
) -> Config:
    """Training of `model`, which is the run or Hub model `start_from`, on prepared `data`: the words of every sentence
    as a bag, predicted from the latents alone, and documents as alike as the encoder finds them.

    Raises ValueError for a model without latents, and for one whose latents have no path of their own to words.
    """
    settings = model.config.model_config
    if not settings.levels:
        raise ValueError(f"{start_from} is a plain language model: it has no latents to adapt")
    if not settings.decoder.logit_rank:
        raise ValueError(f"{start_from} has no path from its latents to words (decoder.logit_rank is 0)")
    apart = max(1, options.steps // VALIDATIONS)
    return Config(
        DataConfig(str(data), options.batch_tokens, options.batch_tokens),
        settings,
        ObjectiveConfig(RatePolicy(anneal="constant"), likelihood="bag_of_words", similarity=options.similarity),
        TrainConfig(
            str(output),
            options.steps,
            options.learning_rate,
            warmup_steps=min(20, options.steps // 10),
            seed=options.seed,
            log_every=apart,
            validate_every=apart,
            save_every=apart,
            keep_checkpoints=1,
            start_from=start_from,
            start_components=True,
        ),
    )
