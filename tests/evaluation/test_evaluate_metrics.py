"""The `evaluate` modules of eval/metrics: textvae's own numbers, however the rows come in."""

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import pytest
import tiny
import torch
from accelerate import Accelerator
from run_scripts import SERVER

from textvae.data.dataset import Documents
from textvae.evaluation.diagnostics import latent_diagnostics
from textvae.training.sums import Totals

ROOT = Path(__file__).parents[2]
METRICS = ("perplexity", "level_kl", "active_units", "mutual_information")
Columns = dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def modules_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the library copies the modules that it loads."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("modules")
        patch.setattr("evaluate.config.HF_MODULES_CACHE", folder)
        yield folder


def load(name: str, cache: Path, **options: Any) -> evaluate.Metric:
    return evaluate.load(str(ROOT / "eval" / "metrics" / name), cache_dir=str(cache), **options)


def rows_of(metric: str, seed: int = 0) -> Columns:
    """Twenty rows of random input."""
    random = np.random.default_rng(seed)
    if metric == "perplexity":
        return {name: random.integers(1, 50, 20).tolist() for name in ("tokens", "words", "bytes")} | {
            "nll": random.uniform(10, 90, 20).tolist()
        }
    if metric == "level_kl":
        levels, documents = random.choice(["document", "sentence"], 20).tolist(), random.integers(0, 4, 20)
        return {"kl": random.exponential(size=20).tolist(), "level": levels, "document": [f"d{n}" for n in documents]}
    names = {
        "active_units": ("posterior_mean", "prior_mean", "prior_log_variance"),
        "mutual_information": ("posterior_mean", "posterior_log_variance", "sample"),
    }[metric]
    return {name: random.normal(0, 0.2, (20, 6)).astype(np.float32) for name in names}


def part(columns: Columns, rows: slice) -> Columns:
    return {name: values[rows] for name, values in columns.items()}


@pytest.mark.parametrize("metric", METRICS)
def test_any_split_into_batches_is_one_batch(metric: str, tmp_path: Path) -> None:
    columns = rows_of(metric)
    whole = load(metric, tmp_path).compute(**columns)
    module = load(metric, tmp_path)
    for borders in ([0, 1, 20], [0, 7, 7, 13, 20], list(range(21))):
        for first, after in pairwise(borders):
            module.add_batch(**part(columns, slice(first, after)))
        assert module.compute() == whole
    for row in range(20):
        module.add(**{name: values[row] for name, values in columns.items()})
    assert module.compute() == whole
    assert module.compute(**rows_of(metric, seed=1)) != whole, "nothing is left over from before"


def second_process(cache: Path) -> None:
    for metric in METRICS:
        for without in (False, True):
            module = load(metric, cache, num_process=2, process_id=1, experiment_id=f"run-{without}")
            theirs = part(rows_of(metric), slice(0) if without else slice(1, 20, 2))
            for rows in (slice(7), slice(7, None)):
                module.add_batch(**part(theirs, rows))
            assert module.compute() is None


def test_two_processes_are_one(tmp_path: Path) -> None:
    """Rows dealt out to two real processes in uneven batches, and a process that has none."""
    other = SERVER.Process(target=second_process, args=(tmp_path,), daemon=True)
    other.start()
    for metric in METRICS:
        whole = load(metric, tmp_path).compute(**rows_of(metric))
        for without in (False, True):
            module = load(metric, tmp_path, num_process=2, process_id=0, experiment_id=f"run-{without}")
            ours = part(rows_of(metric), slice(20) if without else slice(0, 20, 2))
            for rows in (slice(3), slice(3, None)):
                module.add_batch(**part(ours, rows))
            assert flat(module.compute()) == pytest.approx(flat(whole), rel=1e-12)
    other.join(60)
    assert other.exitcode == 0


def flat(result: dict[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in result.items():
        inner = dict(enumerate(value)) if isinstance(value, list) else value
        found |= {f"{name}/{key}": v for key, v in inner.items()} if isinstance(inner, dict) else {name: inner}
    return found


def test_a_model_that_gives_every_token_a_seventh_has_perplexity_seven(tmp_path: Path) -> None:
    tokens = [3, 200, 40]
    columns = {
        "nll": [n * math.log(7) for n in tokens],
        "tokens": tokens,
        "words": [1, 100, 20],
        "bytes": [9, 600, 120],
    }
    found = load("perplexity", tmp_path).compute(**columns)
    assert found["perplexity_per_token"] == pytest.approx(7)
    assert found["perplexity_per_word"] == pytest.approx(7 ** (243 / 121))
    assert found["bits_per_byte"] == pytest.approx(math.log2(7) * 243 / 729)
    assert [found[key] for key in ("documents", "tokens", "words", "bytes")] == [3, 243, 121, 729]
    far = load("perplexity", tmp_path).compute(nll=[1e4], tokens=[10], words=[10], bytes=[60])
    assert (far["perplexity_per_token"], far["bits_per_byte"]) == (math.inf, pytest.approx(1e4 / 60 / math.log(2)))


def test_rates_are_per_unit_of_the_level_and_per_document_of_all(tmp_path: Path) -> None:
    """The level `note` is in one document alone; the levels' rates per document add up to the mean document's."""
    module = load("level_kl", tmp_path)
    module.add_batch(kl=[3.0, 5.0], level=["document"] * 2, document=["a", "b"])
    module.add_batch(kl=[0.5, 0.25, 0.75, 6.0], level=["sentence"] * 3 + ["note"], document=["a", "b", "b", "b"])
    found = module.compute()
    assert (found["documents"], found["units"]) == (2, {"document": 2, "sentence": 3, "note": 1})
    assert found["rate_per_unit"] == pytest.approx({"document": 4, "sentence": 0.5, "note": 6})
    assert found["rate_per_document"] == pytest.approx({"document": 4, "sentence": 0.75, "note": 3})


def test_latents_that_follow_their_parents_are_active_at_the_margin_only(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    prior_mean, prior_log_variance = random.normal(0, 1, (500, 5)), np.full((500, 5), math.log(0.25))
    departure = random.normal(0, [0.5, 0.09, 0, 2, 0.11], (500, 5))
    columns = {
        "prior_mean": prior_mean,
        "prior_log_variance": prior_log_variance,
        "posterior_mean": prior_mean + 0.5 * departure,
    }
    found = load("active_units", tmp_path).compute(**columns)
    assert (found["active_units"], found["active_units_marginal"]) == (3, 5)
    assert found["variance_spectrum"] == pytest.approx([4, 0.25, 0.0121, 0.0081, 0], rel=0.2, abs=1e-9)
    flat_prior = {"posterior_mean": departure} | dict.fromkeys(("prior_mean", "prior_log_variance"), np.zeros((500, 5)))
    found = load("active_units", tmp_path).compute(**flat_prior)
    assert (found["active_units"], found["active_units_marginal"]) == (3, 3), "under N(0, I) they are the same"


def test_mutual_information_of_what_tells_all_units_apart_and_of_nothing(tmp_path: Path) -> None:
    mean, noise = torch.arange(64.0)[:, None] * 100, torch.randn(64, 1, generator=torch.Generator().manual_seed(0))
    module = load("mutual_information", tmp_path)
    found = module.compute(posterior_mean=mean, posterior_log_variance=torch.zeros(64, 1), sample=mean + noise)
    assert found["mutual_information"] == pytest.approx(math.log(64)) == found["mutual_information_ceiling"]
    pairs = (torch.arange(64) // 2 * 100.0)[:, None]
    found = module.compute(posterior_mean=pairs, posterior_log_variance=torch.zeros(64, 1), sample=pairs + noise)
    assert found["mutual_information"] == pytest.approx(math.log(32))
    same = torch.zeros(64, 1)
    found = module.compute(posterior_mean=same, posterior_log_variance=same, sample=noise)
    assert found["mutual_information"] == pytest.approx(0, abs=1e-12)


def test_the_modules_give_what_textvae_reports(tmp_path: Path) -> None:
    """Rates as training logs them, the rest as eval/latents.py, with batches as a user would make them."""
    vae, members = tiny.model(), tiny.documents()
    report = latent_diagnostics(vae, Documents.of(members), seed=3)
    totals, rates = Totals(vae), load("level_kl", tmp_path)
    modules = {name: {m: load(m, tmp_path, experiment_id=name) for m in METRICS[2:]} for name in vae.level_names}
    for document in members:
        batch = tiny.batch_of(vae, [document])
        output = vae(batch, tiny.KeyedNoise(3))
        totals.add(batch, tiny.elbo_terms(output, batch))
        for name, level in output.hierarchy.levels.items():
            posterior, prior = level.posterior, level.prior
            rates.add_batch(kl=level.rate.sum(-1), level=[name] * len(level.z), document=[document.id] * len(level.z))
            modules[name]["active_units"].add_batch(
                posterior_mean=posterior.mean, prior_mean=prior.mean, prior_log_variance=prior.log_variance
            )
            modules[name]["mutual_information"].add_batch(
                posterior_mean=posterior.mean, posterior_log_variance=posterior.log_variance, sample=level.z
            )
    found, logged = rates.compute(), totals.reduce(Accelerator()).report()
    assert found["documents"] == len(members)
    for key in ("rate_per_unit", "rate_per_document"):
        assert found[key] == pytest.approx(logged[key], rel=1e-6)
    for name, level in report.levels.items():
        ours = flat({key: value for module in modules[name].values() for key, value in module.compute().items()})
        assert {key: flat(vars(level))[key] for key in ours} == pytest.approx(ours, rel=1e-5, abs=1e-6)
        assert found["units"][name] == level.units


@pytest.mark.parametrize(
    ("metric", "changed", "message"),
    [
        ("perplexity", {"words": None}, "perplexity takes nll, tokens, words, bytes; given were tokens, bytes, nll"),
        ("perplexity", {"sentences": [1]}, "given were .*sentences"),
        ("perplexity", {"nll": [1.0]}, "equally many rows in all columns; given were .*nll 1"),
        ("perplexity", {"nll": [math.nan] * 20}, "nll must be finite numbers"),
        ("perplexity", {"tokens": [0.5] * 20}, "tokens must be whole numbers"),
        ("perplexity", {"bytes": [-1] * 20}, "bytes must be whole numbers from 0 on"),
        ("perplexity", {"words": [0] * 20}, "a perplexity needs words"),
        ("level_kl", {"level": 3}, "level must be names, one for each row"),
        ("level_kl", {"kl": torch.ones(20, 4)}, r"kl must be .*, one for each row; .*of shape \[20, 4\]"),
        ("active_units", {"prior_mean": np.zeros((20, 3))}, "one latent size in all columns; .*prior_mean 3"),
        ("active_units", {"prior_mean": [[0.0], [0.0, 1.0]] * 10}, "prior_mean must be .*; its rows differ in length"),
        ("mutual_information", {"sample": torch.zeros(20)}, r"sample must be finite numbers, \[rows, latent size\]"),
    ],
)
def test_wrong_input_is_named(metric: str, changed: Columns, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load(metric, tmp_path).compute(**(rows_of(metric) | changed))


@pytest.mark.parametrize("metric", METRICS)
def test_nothing_to_measure_is_an_error(metric: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no unit was added|a perplexity needs tokens"):
        load(metric, tmp_path).compute(**part(rows_of(metric), slice(0)))


def test_levels_of_two_sizes_are_not_mixed(tmp_path: Path) -> None:
    module = load("active_units", tmp_path)
    for size in (4, 6):
        module.add_batch(**{name: values[:, :size] for name, values in rows_of("active_units").items()})
    with pytest.raises(ValueError, match=r"posterior_mean has vectors of \[4, 6\] dimensions"):
        module.compute()
