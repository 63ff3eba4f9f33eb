import pytest
import torch
from torch import Tensor

from textvae.config import UnitConfig
from textvae.data.packing import pack
from textvae.model.unit_transformer import AttentionPool, UnitTransformer, segment_mean

WIDTH = 16


KERNELS = ("sdpa", "eager")


def transformer(causal: bool, window: int = 64, layers: int = 2, kernel: str = "sdpa") -> UnitTransformer:
    torch.manual_seed(0)
    built = UnitTransformer(UnitConfig(WIDTH, layers, 2, window), causal).eval()
    built.backbone.set_attn_implementation(kernel)
    return built


def units(count: int) -> Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("causal", [True, False])
def test_a_document_does_not_depend_on_who_shares_its_row(causal: bool, kernel: str) -> None:
    model = transformer(causal, kernel=kernel)
    parts = [units(count) for count in (9, 2, 5, 1, 3)]
    packed = pack([len(part) for part in parts])
    assert len(packed.segment) < len(parts), "some documents must share a row"
    together = model(torch.cat(parts), packed).split([len(part) for part in parts])
    for part, shared in zip(parts, together, strict=True):
        torch.testing.assert_close(shared, model(part, pack([len(part)])), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [1, 4, 64])
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_unit_is_seen_by_its_neighbours_within_the_window(kernel: str, window: int, causal: bool) -> None:
    model = transformer(causal, window, layers=1, kernel=kernel)
    values, rows, changed = units(12), pack([12]), 5
    other = values.clone()
    other[changed] += 1
    differs = (model(values, rows) - model(other, rows)).abs().amax(1) > 1e-6
    distance = torch.arange(12) - changed
    expected = (distance >= 0) & (distance < window) if causal else distance.abs() < window
    assert torch.equal(differs, expected)


@pytest.mark.parametrize("window", [3, 64])
@pytest.mark.parametrize("kernel", KERNELS)
def test_steps_give_what_the_parallel_pass_gives(kernel: str, window: int) -> None:
    model = transformer(causal=True, window=window, kernel=kernel)
    parts = [units(11), units(11) + 1]
    cache = model.start()
    stepped = [model.step(torch.stack([part[n] for part in parts]), cache) for n in range(11)]
    for number, part in enumerate(parts):
        parallel = model(part, pack([11]))
        torch.testing.assert_close(torch.stack([s[number] for s in stepped]), parallel, atol=1e-5, rtol=1e-4)


def test_ten_thousand_units_look_like_a_hundred() -> None:
    """Beyond the window nothing matters, so the same surroundings give the same state at any distance."""
    torch.manual_seed(0)
    model = UnitTransformer(UnitConfig(width=4, layers=1, heads=1, window=8), causal=True).eval()
    count = 10_016
    values = torch.randn(16, 4, generator=torch.Generator().manual_seed(0)).repeat(count // 16, 1)
    with torch.no_grad():
        states = model(values, pack([count]))
    assert states.isfinite().all()
    torch.testing.assert_close(states[-16:], states[16:32], atol=1e-3, rtol=1e-3)


def test_pooling_is_a_softmax_over_the_children() -> None:
    torch.manual_seed(0)
    pool = AttentionPool(WIDTH, heads=2)
    children, parent = units(7), torch.tensor([0, 0, 0, 1, 2, 2, 2])
    pooled = pool(children, parent, 3)
    for index in range(3):
        mine = children[parent == index]
        weight = pool.score(mine).softmax(0)
        values = pool.value(mine).view(len(mine), 2, -1)
        expected = pool.output((weight[..., None] * values).sum(0).flatten())
        torch.testing.assert_close(pooled[index], expected, atol=1e-6, rtol=1e-5)


def test_pooling_survives_extreme_scores() -> None:
    torch.manual_seed(0)
    pool = AttentionPool(WIDTH, heads=2)
    children = (1e4 * units(4)).requires_grad_()
    pool(children, torch.tensor([0, 0, 1, 1]), 2).sum().backward()
    assert children.grad is not None
    assert children.grad.isfinite().all()


def test_segment_mean_is_the_mean() -> None:
    values, segment = units(6), torch.tensor([1, 0, 1, 1, 3, 0])
    means = segment_mean(values, segment, 4)
    for index in (0, 1, 3):
        torch.testing.assert_close(means[index], values[segment == index].mean(0))


def test_every_parameter_is_used() -> None:
    """An unused parameter that waits for a gradient stops distributed training."""
    model = transformer(causal=False)
    model(units(5), pack([5])).square().sum().backward()
    assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]


def test_a_kernel_that_takes_no_mask_is_refused() -> None:
    model = transformer(causal=True)
    model.backbone.config._attn_implementation = "flash_attention_2"  # set_attn_implementation wants it installed
    with pytest.raises(ValueError, match=r"^attention kernel 'flash_attention_2' takes no mask .* 'eager'$"):
        model(units(5), pack([5]))
