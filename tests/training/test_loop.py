import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from training_runs import (
    Settings,
    assert_close_records,
    assert_close_weights,
    assert_same_run,
    configured,
    records,
    train_until,
)

from textvae.build import build_model
from textvae.config import RatePolicy, TrainConfig
from textvae.config_file import load_config
from textvae.data.dataset import load_prepared
from textvae.model.backbone import output_layer
from textvae.model.topics import TopicHead
from textvae.runs import load_run
from textvae.training.loop import VALIDATION_NOISE, train, validate
from textvae.training.objective import COLLAPSED, elbo_terms
from textvae.training.parameters import clip_gradients, parameter_groups

LEVELS = ("document", "paragraph", "sentence")


@pytest.fixture(scope="module")
def run(prepared: Path, settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("runs") / "three"
    return train(
        configured(prepared, output, settings(*LEVELS), steps=16, policy=RatePolicy(start=0.0, end=1.0, beta_start=0.1))
    )


def test_the_loss_falls(run: Path) -> None:
    losses = [record["nll_per_token"] for record in records(run)]
    assert len(losses) == 16
    assert losses[-1] < losses[0] - 0.5
    first, *_, last = records(run, "validation")
    assert last["perplexity_per_token"] < first["perplexity_per_token"]


def test_a_run_holds_what_the_design_promises(run: Path, prepared: Path) -> None:
    expected = {"config.json", "model.safetensors", "processor.json", "config.yaml", "versions.json", "metrics.jsonl"}
    assert expected <= {path.name for path in run.iterdir()}
    assert not list(run.rglob("*.partial"))
    resolved = load_config(run / "config.yaml")
    assert resolved.train.output == str(run)
    assert resolved.data.path == str(prepared)
    assert json.loads((run / "versions.json").read_text(encoding="utf-8"))["torch"] == torch.__version__
    first = records(run)[0]["beta"]
    assert first == pytest.approx(dict.fromkeys(LEVELS, 0.1)), "what the step used, not what it led to"
    for record in records(run):
        assert record["rate_per_unit"].keys() == record["beta"].keys() == set(LEVELS)
        assert record["gradient_norm"] > 0
        parts = record["distortion_tokens_per_token"] + record["distortion_structure_per_token"]
        assert record["nll_per_token"] > parts, "the raw rate is part of what is reported"


def test_validation_is_the_elbo_of_the_saved_model(run: Path, prepared: Path) -> None:
    """Summed document by document with the loaded model, and again by `validate` in other batches."""
    model, split = load_run(run), load_prepared(prepared, "validation")
    total = 0.0
    for number in range(len(split)):
        batch = model.batch([split.read(number)])
        with torch.no_grad():
            total += float(elbo_terms(model(batch, VALIDATION_NOISE), batch).negative_elbo)
    best = min(records(run, "validation"), key=lambda record: record["nll_per_token"])
    assert best["nll_per_token"] == pytest.approx(total / split.token_counts.sum(), rel=1e-5)
    other_batches = load_config(run / "config.yaml", ["data.micro_batch_tokens=100"])
    sums = validate(model, split, other_batches, Accelerator(mixed_precision="no"))
    assert sums.report()["nll_per_token"] == pytest.approx(best["nll_per_token"], rel=1e-5)
    assert (sums.tokens, sums.documents) == (split.token_counts.sum(), len(split))


def test_a_run_is_not_overwritten(run: Path, prepared: Path, settings: Settings) -> None:
    before = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(ValueError, match="already holds a run"):
        train(configured(prepared, run, settings(*LEVELS)))
    assert (run / "metrics.jsonl").read_bytes() == before


def test_there_must_be_something_to_resume(prepared: Path, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no run in .*run to resume; start one without train.resume"):
        train(configured(prepared, tmp_path / "run", settings(), resume=True))


def test_an_interrupted_run_ends_as_if_it_had_not_been(prepared: Path, settings: Settings, tmp_path: Path) -> None:
    """Bit for bit: weights, optimiser, controllers, dropout, order of the data, metrics."""
    model = settings(
        *LEVELS, architecture={"resid_pdrop": 0.1}, word_dropout=0.2, context_dropout=0.2, context="document"
    )
    options = {"steps": 7, "save_every": 3, "validate_every": 2, "schedule": "cosine", "warmup_steps": 2}
    whole = train(configured(prepared, tmp_path / "whole", model, **options))
    config = configured(prepared, tmp_path / "broken", model, **options)
    train_until(config, 5)
    assert len(records(tmp_path / "broken")) == 5
    assert_same_run(train(replace(config, train=replace(config.train, resume=True))), whole)


@pytest.mark.parametrize("levels", [LEVELS, ()], ids=str)
def test_accumulated_micro_batches_are_one_large_batch(
    prepared: Path, settings: Settings, tmp_path: Path, levels: tuple[str, ...]
) -> None:
    model = settings(*levels, context="document")
    large, small = (
        train(configured(prepared, tmp_path / str(size), model, steps=3, micro_batch_tokens=size))
        for size in (10_000, 60)
    )
    assert_close_records(large, small)
    assert_close_weights(large, small)


def test_every_trained_parameter_is_in_one_group(
    settings: Settings, make_processor: Callable[..., Any], tmp_path: Path
) -> None:
    plain = build_model(settings(), make_processor())
    plain.save_pretrained(tmp_path)
    given = settings(*LEVELS, name=str(tmp_path))
    model = build_model(replace(given, encoder=replace(given.encoder, trainable=True)), make_processor())
    options = TrainConfig(learning_rate=1e-2, pretrained_learning_rate=1e-5, weight_decay=0.1)
    names = {id(p): n for n, p in model.named_parameters()}
    seen = []
    for group in parameter_groups(model, options):
        for parameter in group["params"]:
            name = names[id(parameter)]
            seen.append(name)
            is_pretrained = name.startswith(("encoder.backbone", "decoder.backbone"))
            assert group["lr"] == (1e-5 if is_pretrained else 1e-2), name
            assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0), name
    assert sorted(seen) == sorted(n for n, p in model.named_parameters() if p.requires_grad)


def test_a_loss_that_explodes_stops_the_run(prepared: Path, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not finite at step 4, 3 times in a row"):
        train(configured(prepared, tmp_path / "run", settings("document"), learning_rate=1e30, max_skipped_steps=3))


def test_a_trainable_encoder_and_cached_features_exclude_each_other(
    prepared: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = settings("document")
    monkeypatch.setattr("textvae.data.dataset.PreparedSplit.has_features", True)
    with pytest.raises(ValueError, match="cached features"):
        train(configured(prepared, tmp_path / "run", replace(given, encoder=replace(given.encoder, trainable=True))))


def test_unknown_levels_are_named_before_training(prepared: Path, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no level 'verse'"):
        train(configured(prepared, tmp_path / "run", settings("verse")))


def test_a_bag_of_words_run_teaches_latents_and_lends_them(prepared: Path, settings: Settings, tmp_path: Path) -> None:
    """The decoder stays as it is; a run that starts from there starts with the very same weights."""
    model = settings(*LEVELS, logit_rank=8)
    bag = {"likelihood": "bag_of_words"}
    config = configured(prepared, tmp_path / "bag", model, objective=bag, steps=12, learning_rate=2e-2)
    torch.manual_seed(config.train.seed)
    start = build_model(model, load_prepared(prepared, "train").processor).decoder.backbone.state_dict()
    losses = [record["nll_per_token"] for record in records(train(config))]
    assert losses[-1] < losses[0] - 0.1
    taught = load_run(tmp_path / "bag")
    assert all(torch.equal(value, start[name]) for name, value in taught.decoder.backbone.state_dict().items())

    still = {"steps": 1, "learning_rate": 1e-12, "pretrained_learning_rate": 0.0, "start_from": str(tmp_path / "bag")}
    again = load_run(train(configured(prepared, tmp_path / "vae", model, **still)))
    for name, value in taught.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, msg=lambda text, n=name: f"{n}: {text}")
    with pytest.raises(ValueError, match=r"train.start_from.*shape \(bottom_up.skip.document"):
        train(configured(prepared, tmp_path / "other", settings(*LEVELS, logit_rank=4), **still))


def test_a_bag_of_words_run_lends_no_decoder_to_a_run_that_names_one(
    prepared: Path, settings: Settings, tmp_path: Path
) -> None:
    """Topics that were learned beside another language model, or none; a run whose decoder ran lends that, too."""
    for name, seed in (("bag", 1), ("joint", 2)):
        objective = {"likelihood": "bag_of_words"} if name == "bag" else {}
        model = settings(*LEVELS, logit_rank=8)
        train(configured(prepared, tmp_path / name, model, objective=objective, steps=2, seed=seed))
    language_model = load_run(train(configured(prepared, tmp_path / "lm", settings(logit_rank=8), steps=3, seed=3)))
    named = language_model.decoder.backbone.state_dict()
    still = {"steps": 1, "learning_rate": 1e-12, "pretrained_learning_rate": 0.0}
    for name in ("bag", "joint"):
        model = settings(*LEVELS, logit_rank=8, name=str(tmp_path / "lm"))
        config = configured(prepared, tmp_path / f"from-{name}", model, start_from=str(tmp_path / name), **still)
        lent, found = load_run(tmp_path / name).state_dict(), load_run(train(config)).state_dict()
        prefix = "decoder.backbone."
        for key, value in found.items():
            own = key.startswith(prefix) and name == "bag"
            expected = named[key.removeprefix(prefix)] if own else lent[key]
            torch.testing.assert_close(value, expected, msg=lambda text, k=key: f"{k}: {text}")


def test_the_bag_knows_how_often_words_occur(prepared: Path, settings: Settings, tmp_path: Path) -> None:
    """Sentence ends are words to be predicted, too."""
    split = load_prepared(prepared, "train")
    counts: dict[int, int] = {}
    for number in range(len(split)):
        document = split.read(number)
        for word in [
            *document.decoder_ids,
            *[split.processor.decoder_tokenizer.eos_token_id] * len(document.sentences),
        ]:
            counts[int(word)] = counts.get(int(word), 0) + 1
    assert {word: count for word, count in enumerate(split.word_counts.tolist()) if count} == counts
    config = configured(
        prepared, tmp_path / "run", settings("document", logit_rank=4), steps=1, objective={"bag_of_words": 1.0}
    )
    unigram = load_run(train(config)).decoder.topic_head.unigram.exp()
    assert float(unigram.sum()) == pytest.approx(1, rel=1e-4)
    frequent = max(counts, key=lambda word: counts[word])
    assert int(unigram.argmax()) == frequent


def test_topics_start_from_the_decoders_embeddings_unless_a_run_lends_its_own(
    prepared: Path, settings: Settings, tmp_path: Path
) -> None:
    still = {"objective": {"likelihood": "bag_of_words"}, "steps": 1, "learning_rate": 1e-12}
    embedded = settings("document", logit_rank=8, topic_start="embeddings")
    found = load_run(train(configured(prepared, tmp_path / "embedded", embedded, **still))).decoder
    expected = TopicHead(8, found.topic_head.out_features)
    expected.set_unigram(torch.from_numpy(load_prepared(prepared, "train").word_counts))
    expected.start_from(output_layer(found.backbone).weight)
    torch.testing.assert_close(found.topic_head.weight, expected.weight, atol=1e-5, rtol=1e-4)

    drawn = settings("document", logit_rank=8)
    lent = load_run(train(configured(prepared, tmp_path / "drawn", drawn, **still))).decoder.topic_head.weight
    assert not torch.allclose(lent, expected.weight, atol=1e-2)
    still["start_from"] = str(tmp_path / "drawn")
    kept = load_run(train(configured(prepared, tmp_path / "kept", embedded, **still))).decoder.topic_head.weight
    torch.testing.assert_close(kept, lent)


def test_a_collapsed_level_is_named_once(
    prepared: Path, settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The paragraph starts near its prior and is pressed towards it from the first step; the others are left alone."""
    free = RatePolicy(anneal="constant", beta=1e-6)
    pressed = RatePolicy(anneal="constant", beta=1e3)
    model = settings(*LEVELS)
    levels = tuple(replace(x, initial_posterior_std=1.0 if x.name == "paragraph" else 0.1) for x in model.levels)
    train(
        configured(
            prepared,
            tmp_path / "run",
            replace(model, levels=levels),
            policy=free,
            steps=30,
            learning_rate=1e-2,
            objective={"levels": {"paragraph": pressed}},
        )
    )
    warnings = [record.getMessage() for record in caplog.records if "collapsed" in record.getMessage()]
    assert len(warnings) == 1
    found = re.search(r"level 'paragraph' has collapsed: its rate is ([\d.]+) nats per unit at step (\d+)", warnings[0])
    assert found is not None
    rate, step = float(found[1]), int(found[2])
    # The running mean, told to three places, follows the steps' own rates from above.
    assert records(tmp_path / "run")[step - 1]["rate_per_unit"]["paragraph"] <= rate + 5e-4 < COLLAPSED + 5e-4
    remedy = re.search(r"objective\.levels\.\S+=\S+", warnings[0])
    assert remedy is not None
    stored = tmp_path / "run" / "config.yaml"
    before, after = load_config(stored), load_config(stored, [remedy[0]])
    expected = replace(before.objective, levels={"paragraph": replace(pressed, free_bits=0.1)})
    assert after == replace(before, objective=expected), "the remedy changes that policy's one field"


@pytest.mark.slow
def test_a_steered_rate_settles_on_its_target(prepared: Path, settings: Settings, tmp_path: Path) -> None:
    """In real training, of a level that could tell its 22 documents apart (log 22 nats) or nothing: on average, for it
    swings about the target."""
    steered = RatePolicy(anneal="constant", target_rate=0.8, controller_gain=0.05)
    train(
        configured(
            prepared,
            tmp_path / "run",
            settings("document"),
            policy=steered,
            steps=400,
            validate_every=400,
            save_every=400,
            objective={"likelihood": "bag_of_words"},
        )
    )
    found = [record["rate_per_unit"]["document"] for record in records(tmp_path / "run")[-300:]]
    assert sum(found) / len(found) == pytest.approx(0.8, rel=0.15)


def test_gradients_are_measured_by_level(run: Path, settings: Settings, make_processor: Callable[..., Any]) -> None:
    for record in records(run):
        assert record["gradient_ratio"].keys() == {*LEVELS, "bottom_up", "decoder"}
    model = build_model(settings(*LEVELS), make_processor())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.grad = parameter.detach() * (3.0 if ".paragraph." in name else 0.5)
    before = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    norm, ratios = clip_gradients(model, 0.1, measured=True)
    found = {part: float(ratio) for part, ratio in ratios.items()}
    assert found == pytest.approx({**dict.fromkeys((*LEVELS, "bottom_up", "decoder"), 0.5), "paragraph": 3.0})
    assert float(norm) == pytest.approx(math.sqrt(sum(float(gradient.square().sum()) for gradient in before)))
    after = [p.grad for p in model.parameters() if p.grad is not None]
    torch.testing.assert_close(after, [gradient * 0.1 / norm for gradient in before])
    clip_gradients(model, 0.2)
    torch.testing.assert_close(after, [gradient * 0.1 / norm for gradient in before])


def test_means_start_from_components_of_the_training_text_unless_a_run_lends_its_own(
    prepared: Path, settings: Settings, tmp_path: Path
) -> None:
    """Before a step that moves nothing: uncorrelated over the training documents, and nothing of it where a run lends
    its map, but where they are asked for."""
    still = {"objective": {"likelihood": "bag_of_words"}, "steps": 1, "learning_rate": 1e-12}
    given = settings(*LEVELS)
    started = load_run(train(configured(prepared, tmp_path / "started", given, **still)))
    assert started.hierarchy.stack["sentence"].linear.weight.abs().max() < 1e-9
    split = load_prepared(prepared, "train")
    batch = started.batch([split.read(row) for row in range(len(split))])
    with torch.no_grad():
        means = started.latents(batch)["document"].mean
    covariance = torch.cov(means.T, correction=0)
    kept = covariance.diagonal() > 1e-4
    assert 1 < kept.sum() <= len(split)
    torch.testing.assert_close(covariance[kept][:, kept], 0.25 * torch.eye(int(kept.sum())), atol=1e-3, rtol=0)
    with torch.no_grad():
        started.hierarchy.stack["document"].linear.weight.mul_(3)
    started.save_pretrained(tmp_path / "other")
    still["start_from"] = str(tmp_path / "other")
    lent = load_run(train(configured(prepared, tmp_path / "lent", given, **still)))
    still["start_components"] = True
    again = load_run(train(configured(prepared, tmp_path / "again", given, **still)))
    first, second, third = (model.hierarchy.stack["document"].linear.weight for model in (started, lent, again))
    torch.testing.assert_close(first, second)
    torch.testing.assert_close(3 * third, second)
