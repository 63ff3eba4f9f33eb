import math
from itertools import pairwise

import pytest

from textvae.config import RatePolicy, TrainConfig
from textvae.training.schedules import beta, learning_rate_factor


@pytest.mark.parametrize(
    ("anneal", "points"),
    [
        ("constant", {0.0: 2.0, 0.3: 2.0, 1.0: 2.0}),
        ("linear", {0.0: 0.5, 0.19: 0.5, 0.2: 0.5, 0.4: 1.25, 0.5: 1.625, 0.6: 2.0, 1.0: 2.0}),
        # Two cycles of 0.2 each: up in the first half, at the top in the second.
        ("cyclical", {0.1: 0.5, 0.2: 0.5, 0.25: 1.25, 0.3: 2.0, 0.39: 2.0, 0.45: 1.25, 0.55: 2.0, 0.7: 2.0}),
    ],
)
def test_beta_follows_its_schedule(anneal: str, points: dict[float, float]) -> None:
    policy = RatePolicy(beta=2.0, anneal=anneal, start=0.2, end=0.6, beta_start=0.5, cycles=2)
    assert {at: beta(policy, at) for at in points} == pytest.approx(points)


def test_each_cycle_starts_anew() -> None:
    policy = RatePolicy(anneal="cyclical", start=0.0, end=1.0, cycles=5)
    for cycle in range(5):
        assert beta(policy, cycle / 5 + 1e-9) == pytest.approx(0, abs=1e-6)
        assert beta(policy, (cycle + 0.25) / 5) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("schedule", "middle", "end"), [("cosine", 0.55, 0.1), ("linear", 0.55, 0.1), ("constant", 1.0, 1.0)]
)
def test_the_learning_rate_warms_up_and_decays(schedule: str, middle: float, end: float) -> None:
    config = TrainConfig(steps=110, warmup_steps=10, schedule=schedule, final_learning_rate=0.1)
    factors = [learning_rate_factor(config, step) for step in range(111)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert factors[10] == pytest.approx(1)
    assert factors[60] == pytest.approx(middle)
    assert factors[110] == pytest.approx(end)
    assert all(later <= earlier for earlier, later in pairwise(factors[9:]))


def test_a_quarter_of_the_cosine() -> None:
    config = TrainConfig(steps=100, warmup_steps=0, schedule="cosine", final_learning_rate=0.0)
    assert learning_rate_factor(config, 25) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
