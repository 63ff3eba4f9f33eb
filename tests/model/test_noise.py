from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from textvae.data.batch import key_of
from textvae.model.noise import KeyedNoise

SIZE = 6


@dataclass(frozen=True)
class Key:
    seed: int = 0
    step: int = 0
    document: str = "a"
    stream: str = "document"
    unit: int = 0
    sample: int = 0

    def normal(self, size: int = SIZE) -> Tensor:
        document = torch.tensor([key_of(self.document)])
        noise = KeyedNoise(self.seed, self.step)
        return noise.normal(document, self.stream, torch.tensor([self.unit]), size, self.sample)[0]


@pytest.mark.parametrize("axis", ["documents", "units", "samples", "steps"])
def test_a_large_draw_is_standard_normal_and_uncorrelated(axis: str) -> None:
    count, size = 40_000, 5
    where = torch.arange(count)
    documents = (
        torch.tensor([key_of(f"doc-{n}") for n in range(count)]) if axis == "documents" else torch.zeros_like(where)
    )
    if axis == "steps":
        draws = [KeyedNoise(7, step).normal(documents[:1], "z", where[:1], size) for step in range(4000)]
        values = torch.cat(draws).double()
    else:
        unit = where if axis == "units" else torch.zeros_like(where)
        sample = where if axis == "samples" else 0
        values = KeyedNoise(7).normal(documents, "z", unit, size, sample).double()
    margin = 4.5 / len(values) ** 0.5
    assert values.mean(0).abs().max() < margin
    assert (values.var(0) - 1).abs().max() < margin * 2**0.5
    assert (values**4).mean(0).sub(3).abs().max() < margin * 96**0.5
    correlation = torch.corrcoef(values.T) - torch.eye(size)
    assert correlation.abs().max() < margin
    neighbours = (values[1:] * values[:-1]).mean(0)
    assert neighbours.abs().max() < margin


def test_uniform_fills_the_interval() -> None:
    values = KeyedNoise(1).uniform(torch.zeros(50_000, dtype=torch.long), "words", torch.arange(50_000))
    assert 0 <= values.min() < 0.001
    assert 0.999 < values.max() < 1
    counts = torch.histc(values, 20, 0, 1)
    assert ((counts - 2500).abs() < 5 * 2500**0.5).all()


def test_the_same_key_gives_the_same_noise_in_any_company() -> None:
    documents = torch.tensor([key_of(name) for name in "abc"])
    units = torch.tensor([4, 0, 9])
    together = KeyedNoise(2, 3).normal(documents, "paragraph", units, SIZE)
    order = torch.tensor([2, 0])
    assert torch.equal(KeyedNoise(2, 3).normal(documents[order], "paragraph", units[order], SIZE), together[order])
    assert torch.equal(Key(2, 3, "b", "paragraph", 0).normal(), together[1])


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"step": 1}, {"step": -1}, {"document": "b"}, {"stream": "paragraph"}, {"unit": 1}, {"sample": 1}],
    ids=str,
)
def test_another_key_gives_other_noise(change: dict[str, object]) -> None:
    difference = (Key().normal() - replace(Key(), **change).normal()).abs()
    assert (difference > 1e-3).all()


def test_units_samples_and_seeds_are_not_interchangeable() -> None:
    keys = [
        Key(seed=s, step=t, unit=u, sample=k) for s in range(3) for t in range(3) for u in range(3) for k in range(3)
    ]
    values = torch.stack([key.normal(2) for key in keys])
    assert torch.unique(values, dim=0).shape[0] == len(keys)


def test_an_odd_size_is_no_special_case() -> None:
    wide = KeyedNoise(0).normal(torch.zeros(20_000, dtype=torch.long), "z", torch.arange(20_000), 3)
    assert (torch.corrcoef(wide.T) - torch.eye(3)).abs().max() < 0.03
