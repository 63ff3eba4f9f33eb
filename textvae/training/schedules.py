"""Schedules as pure functions of progress: the fraction of training that is done, in [0, 1]."""

from __future__ import annotations

import math

from textvae.config import RatePolicy, TrainConfig


def beta(policy: RatePolicy, progress: float) -> float:
    """Weight of a level's rate: constant, one ramp, or repeated ramps (Fu et al. 2019).

    A cyclical schedule spends the first half of every cycle rising and the second half at the top.
    """
    if policy.anneal == "constant" or progress >= policy.end:
        return policy.beta
    if progress < policy.start:
        return policy.beta_start
    done = (progress - policy.start) / (policy.end - policy.start)
    if policy.anneal == "cyclical":
        done = min(1.0, 2 * (done * policy.cycles % 1.0))
    return policy.beta_start + (policy.beta - policy.beta_start) * done


def learning_rate_factor(config: TrainConfig, step: int) -> float:
    """Learning rate at `step` as a fraction of the peak: linear warm-up, then the chosen decay."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    done = min(1.0, (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps))
    remaining = 1 - done if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return config.final_learning_rate + (1 - config.final_learning_rate) * remaining
