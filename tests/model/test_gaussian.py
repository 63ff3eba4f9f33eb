import pytest
import torch
from torch.distributions import Normal, kl_divergence

from textvae.model.gaussian import MAX_LOG_VARIANCE, MIN_LOG_VARIANCE, DiagonalGaussian, raw_log_variance


def gaussian(seed: int, *shape: int) -> DiagonalGaussian:
    generator = torch.Generator().manual_seed(seed)
    return DiagonalGaussian(torch.randn(shape, generator=generator), torch.randn(shape, generator=generator))


def reference(distribution: DiagonalGaussian) -> Normal:
    return Normal(distribution.mean, (0.5 * distribution.log_variance).exp())


def test_log_prob_and_kl_are_those_of_torch() -> None:
    ours, other = gaussian(0, 5, 3), gaussian(1, 5, 3)
    value = torch.randn(5, 3, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(ours.log_prob(value), reference(ours).log_prob(value))
    torch.testing.assert_close(ours.kl(other), kl_divergence(reference(ours), reference(other)))


def test_kl_is_the_mean_log_ratio_of_samples() -> None:
    ours, other = gaussian(0, 4), gaussian(1, 4)
    values = ours.sample(torch.randn(200_000, 4, generator=torch.Generator().manual_seed(2)))
    ratio = ours.log_prob(values) - other.log_prob(values)
    error = 4 * ratio.std(0) / len(ratio) ** 0.5
    assert (error < 0.2).all()
    assert ((ratio.mean(0) - ours.kl(other)).abs() < error).all()


def test_kl_is_zero_only_between_equals() -> None:
    ours = gaussian(0, 4)
    assert ours.kl(ours).abs().max() < 1e-6
    assert (ours.kl(DiagonalGaussian(ours.mean, ours.log_variance + 0.1)) > 0).all()
    assert (ours.kl(DiagonalGaussian(ours.mean + 0.1, ours.log_variance)) > 0).all()


def test_samples_have_the_mean_and_the_deviation() -> None:
    ours = gaussian(0, 4)
    values = ours.sample(torch.randn(100_000, 4, generator=torch.Generator().manual_seed(1)))
    torch.testing.assert_close(values.mean(0), ours.mean, atol=0.03, rtol=0)
    torch.testing.assert_close(values.std(0), reference(ours).stddev, atol=0, rtol=0.02)


def test_a_zero_head_is_standard_normal() -> None:
    ours = DiagonalGaussian.from_parameters(torch.zeros(2, 6))
    standard = DiagonalGaussian.standard((2, 3), torch.device("cpu"))
    torch.testing.assert_close(ours.mean, standard.mean)
    torch.testing.assert_close(ours.log_variance, standard.log_variance, atol=1e-6, rtol=0)


@pytest.mark.parametrize("std", [0.01, 0.1, 1.0, 5.0])
def test_a_head_can_start_at_any_deviation(std: float) -> None:
    head = torch.tensor([[0.0, raw_log_variance(std)]])
    assert DiagonalGaussian.from_parameters(head).std.item() == pytest.approx(std, rel=1e-4)


def test_extreme_heads_stay_bounded_and_differentiable() -> None:
    head = torch.tensor([[0.0, -1e4], [0.0, 1e4]], requires_grad=True)
    ours = DiagonalGaussian.from_parameters(head.to(torch.bfloat16))
    assert ours.mean.dtype == ours.log_variance.dtype == torch.float32
    assert ours.log_variance.flatten().tolist() == pytest.approx([MIN_LOG_VARIANCE, MAX_LOG_VARIANCE], abs=1e-3)
    ours.kl(DiagonalGaussian.standard((2, 1), torch.device("cpu"))).sum().backward()
    assert head.grad is not None
    assert head.grad.isfinite().all()


def test_index_takes_rows_of_both() -> None:
    ours = gaussian(0, 5, 3)
    picked = ours.index(torch.tensor([4, 4, 0]))
    assert torch.equal(picked.mean, ours.mean[[4, 4, 0]])
    assert torch.equal(picked.log_variance, ours.log_variance[[4, 4, 0]])
