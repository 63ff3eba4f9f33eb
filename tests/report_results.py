"""Results as eval/latents.py and eval/perplexity.py write them, with numbers of our own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LEVEL = {
    "dims": 2,
    "units": 678,
    "active_units": 1,
    "active_units_marginal": 2,
    "variance_spectrum": [0.5, 0.001],
    "rate_per_unit": 3.059,
    "rate_per_document": 6.118,
    "mutual_information": 1.797,
    "mutual_information_ceiling": 6.519,
    "nll_increase_when_shuffled": 14.216,
    "nll_increase_when_shuffled_interval": [12.406, 16.026],
    "nll_increase_when_zeroed": 5.001,
    "nll_increase_when_zeroed_interval": [4.5, 5.502],
    "payoff": 3.381,
    "payoff_over_prior_mean": None,
}
POSITIONS = {"position": [0, 1, 4], "nats_per_token": [0.25, 0.1, -0.05], "tokens": [9, 9, 20]}
LATENTS = {
    "documents": 100,
    "tokens": 38,
    "seed": 0,
    "levels": {"sentence": LEVEL},
    "nll_gain": {"sentence": {"by_token_position": POSITIONS}},
    "reconstruction": {"documents": 3, "exact_match": 0.125, "sacrebleu_signature": "x"},
}
ELBO = {
    "documents": 1200,
    "tokens": 10000,
    "words": 5000,
    "bytes": 30000,
    "estimator": "elbo",
    "samples": 1,
    "seed": 0,
    "nll_nats_per_document": 50.0,
    "perplexity_per_token": 403.43,
    "perplexity_per_word": 162754.8,
    "bits_per_byte": 2.885,
    "distortion_tokens": 40.0,
    "distortion_structure": 1.0,
    "rate": {"sentence": 9.0},
    "perplexity_per_token_by_samples": {},
    "gain_over_elbo_by_samples": {},
    "min_effective_samples": [],
    "nll_by_document": [49.0, 51.0],
}
IWAE = ELBO | {
    "estimator": "iwae",
    "samples": 4,
    "perplexity_per_token": 390.5,
    "perplexity_per_token_by_samples": {"4": 390.5, "2": 395.0, "1": 403.0},
}
FEWER = IWAE | {"documents": 12, "tokens": 100, "estimator": "smc", "perplexity_per_token": 1.5}


def written(folder: Path, **results: Any) -> dict[str, str]:
    for name, result in results.items():
        (folder / f"{name}.json").write_text(json.dumps(result), encoding="utf-8")
    return {name: str(folder / f"{name}.json") for name in results}
