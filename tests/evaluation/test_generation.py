"""What is measured of written documents, where the answers are known, and eval/generation.py as a user runs it."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch
from run_scripts import forked, refusal, run_script
from tiny import DOCUMENT, document
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase

from textvae.build import build_model
from textvae.config import ModelConfig
from textvae.data.dataset import Documents, load_prepared
from textvae.data.text.processor import DocumentProcessor
from textvae.evaluation.generation.agreement import (
    Embedded,
    agreement,
    drift,
    likeliest_agreement,
    plan_agreement,
    plan_agreements,
    tfidf_agreement,
)
from textvae.evaluation.generation.judge import Judge
from textvae.evaluation.generation.themes import choose_themes, prior_themes
from textvae.evaluation.generation.variance import variance_shares
from textvae.evaluation.generation.wording import copied, distinct, self_bleu

MakeRun = Callable[..., str]
SEA, SHOP = "the boats turned back past the harbour wall", "she sold rope and lamps in her shop"


@pytest.fixture(scope="module")
def run(make_run: MakeRun) -> str:
    return make_run(*DOCUMENT)


def command(run: str, prepared: Path, out: Path, *more: str) -> list[str]:
    given = ["--model", run, "--data", str(prepared), "--split", "train", "--out", str(out), "--themes", "3"]
    return ["eval/generation.py", *given, "--max-children", "3", "--max-sentence-tokens", "12", *more]


def test_agreement_counts_those_nearest_to_their_own_theme() -> None:
    themes = np.random.default_rng(0).normal(size=(6, 8)) * [1, 1, 1, 1, 1, 1, 1, 100] + 50
    near = themes + np.random.default_rng(1).normal(size=themes.shape) * 0.01
    own = np.arange(6)
    assert agreement(near, themes, own) == 1
    assert agreement(near, themes, np.roll(own, 1)) == 0
    assert agreement(near[[0, 1, 2, 4]], themes, np.array([0, 1, 2, 3])) == 0.75


def test_the_likeliest_theme_is_the_one_that_a_linear_gaussian_model_finds_by_its_text() -> None:
    """x = W z + noise, whose posterior is known, as is log p(x | z); the text says little of half of the dimensions."""
    random = np.random.default_rng(0)
    themes = random.normal(size=(40, 30))
    weight = np.where(np.arange(30) < 15, 1.0, 0.02)
    seen = weight * themes + random.normal(size=themes.shape)
    precision = 1 + weight**2
    written = Embedded(weight * seen / precision, np.ones_like(themes) * precision**-0.5, np.empty(0), [], [])
    log_likelihood = -((seen[:, None] - weight * themes) ** 2).sum(-1)
    own = np.arange(40)
    expected = (log_likelihood.argmax(1) == own).mean()
    assert likeliest_agreement(written, themes, own) == expected > agreement(written.theme, themes, own)
    assert likeliest_agreement(written, themes, log_likelihood.argmax(1)) == 1


def test_tfidf_agreement_goes_by_the_words_that_tell_themes_apart() -> None:
    written = ["A harbour. Boats!", "Lamps, rope: a shop.", "Harbour wall"]
    assert tfidf_agreement(written, [SEA, SHOP], np.array([0, 1, 1])) == pytest.approx(2 / 3)


def test_drift_is_the_cosine_to_the_own_theme_about_the_common_mean() -> None:
    real = Embedded(
        np.zeros((2, 1)),
        np.ones((2, 1)),
        np.array([[3.0, 1.0], [1.0, 1.0]]),
        [],
        [np.array([[3.0, 1.0]] * 2), np.ones((1, 2))],
    )
    rows = [np.array([[9.0, 1.0], [-9.0, 1.0], [2.0, 5.0]])]
    written = Embedded(np.zeros((1, 1)), np.ones((1, 1)), np.zeros((1, 2)), [], rows)
    found = drift(written, real, np.array([0]))
    np.testing.assert_allclose(found.written, [[1, -1, 0]], atol=1e-6)
    # The only paragraph of the second document has no rest to be compared with.
    np.testing.assert_allclose(found.real, [[1, 1]])


def test_a_plan_is_found_again_where_its_own_latent_is_the_nearest() -> None:
    planned = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 3.0], [0.0, -3.0]])
    document = np.array([0, 0, 1, 1])
    same = plan_agreement(planned * 0.1, planned, document)
    assert (same.units, same.agreement, same.chance, same.nearer, same.nearer_than_siblings) == (4, 1, 0.25, 1, 1)
    swapped = plan_agreement(planned[[1, 0, 3, 2]], planned, document)
    assert (swapped.agreement, swapped.nearer_than_siblings) == (0, 0)
    assert swapped.nearer == 0
    # What says the document alone: its units are told from others', not from each other.
    alike = plan_agreement(
        np.array([[1.0, -1.0]] * 4), np.array([[3.0, 0.0], [3.0, 0.0], [0, 3.0], [0, 3.0]]), document
    )
    assert alike.nearer_than_siblings == 0.5
    assert math.isnan(plan_agreement(planned, planned, np.arange(4)).nearer_than_siblings)


def test_variance_is_shared_out_over_the_levels_that_it_was_drawn_at() -> None:
    """Whatever the number of sentences: the shares of two sentences a paragraph are those of many."""
    random = np.random.default_rng(0)

    def shares(sentences: int) -> dict[str, float]:
        documents = [document(str(number), [3], [sentences] * 3) for number in range(60)]
        of_paragraph = [random.normal(size=(3, 40)) + 2 * random.normal(size=40) for _ in documents]
        rows = [np.repeat(means, sentences, axis=0) for means in of_paragraph]
        features = [means + 3 * random.normal(size=means.shape) for means in rows]
        return variance_shares(features, documents, DOCUMENT)

    for count in (2, 12):
        found = shares(count)
        assert sum(found.values()) == pytest.approx(1)
        assert found == pytest.approx({"document": 4 / 14, "paragraph": 1 / 14, "sentence": 9 / 14}, abs=0.04)


def test_self_bleu_does_not_depend_on_how_many_are_alike() -> None:
    assert self_bleu([[SEA] * 2]) == pytest.approx(100)
    assert self_bleu([[SEA] * 5]) == pytest.approx(100)
    assert self_bleu([[SEA, SHOP]]) < 5
    assert math.isnan(self_bleu([[SEA], [SHOP]]))


def test_distinct_counts_n_grams_of_the_first_words() -> None:
    assert distinct(["a b a", "b a b"], 2, 5) == 2 / 4
    assert distinct(["a b c d"], 2, 100) == 1


def test_copied_counts_runs_of_eight_words() -> None:
    training = [f"so {SEA} and {SHOP} every day"]
    found = copied(
        {"whole": [SEA.upper()], "beyond": [f"{SEA} again"], "none": ["a b c d e f g h"], "short": ["a"]}, training
    )
    assert found["whole"] == 1
    assert found["beyond"] == 1 / 2
    assert found["none"] == 0
    assert math.isnan(found["short"])


def test_a_judge_without_preferences_takes_the_logarithm_of_its_vocabulary(
    decoder_tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=400, n_layer=1, n_embd=8, n_head=2, n_positions=512))
    with torch.no_grad():
        model.transformer.wte.weight.zero_()
    model.save_pretrained(tmp_path)
    decoder_tokenizer.save_pretrained(tmp_path)
    judge = Judge(str(tmp_path), torch.device("cpu"))
    assert judge.nats_per_token([SEA, SHOP]) == pytest.approx(math.log(400))


def test_what_was_read_before_counts_for_what_comes_after(decoder_folder: str, tmp_path: Path) -> None:
    """A judge is asked for a text's own tokens only, with as much before them as it can read."""
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=400, n_layer=1, n_embd=8, n_head=2, n_positions=64)).save_pretrained(tmp_path)
    for file in Path(decoder_folder).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    judge = Judge(str(tmp_path), torch.device("cpu"))
    both = judge.tokenizer(f"{SEA}\n\n", add_special_tokens=False).input_ids
    start = len(both)
    both += judge.tokenizer(SHOP, add_special_tokens=False).input_ids
    assert start < 32 < len(both) < 64
    with torch.no_grad():
        log_prob = judge.model(torch.tensor([both])).logits[0].log_softmax(-1)
    expected = -fmean(log_prob[place - 1, both[place]].item() for place in range(start, len(both)))
    assert judge.nats_after(SEA, SHOP) == pytest.approx(expected, rel=1e-5)
    assert judge.nats_after(SHOP, SHOP) != pytest.approx(expected, rel=1e-5)
    assert judge.nats_after(SEA * 50, SHOP) == judge.nats_after(SEA * 60, SHOP)
    assert math.isnan(judge.nats_after(SEA, ""))


def test_plans_are_compared_under_the_planned_latents_above(make_model: MakeRun) -> None:
    model = make_model(*DOCUMENT)
    documents = model.process([f"{SEA}. {SHOP}.\n\nThe wind rose.", f"{SHOP}.\n\n{SEA}. It was late."])
    found = plan_agreements(model, [model.plan(document) for document in documents], documents)
    assert {name: (level.units, level.agreement) for name, level in found.items()} == {
        "paragraph": (4, 1),
        "sentence": (6, 1),
    }


def test_themes_are_of_different_sources(prepared: Path) -> None:
    split = load_prepared(prepared, "train")
    members = [split.read(row) for row in (0, 1, 2)]
    sections = [replace(member, id=f"{member.id}/{part}") for member in members for part in (1, 2)]
    documents = Documents.of(sections)
    assert len(choose_themes(documents, 10)) == 3
    assert len(set(choose_themes(documents, 2).source_ids)) == 2
    with pytest.raises(ValueError, match="told from others"):
        choose_themes(documents.select([0, 1]), 10)


def test_drawn_themes_are_of_the_prior(make_model: MakeRun) -> None:
    model = make_model(*DOCUMENT)
    size = model.hierarchy.stack["document"].latent_size
    drawn = prior_themes(model, 4000, seed=0)
    assert drawn.shape == (4000, size)
    np.testing.assert_allclose(np.cov(drawn.T), np.eye(size), atol=0.1)
    np.testing.assert_allclose(drawn.mean(0), 0, atol=0.1)
    assert not np.isin(prior_themes(model, 4, seed=1), drawn).any()


def test_the_file_holds_what_was_written_and_what_real_text_gives(
    run: str, prepared: Path, decoder_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, documents = tmp_path / "generation.json", tmp_path / "new" / "documents.jsonl"
    more = ("--num", "2", "--copied-from", "train", "--documents", str(documents), "--limit", "3")
    more += ("--prior-themes", "4")
    assert run_script(*command(run, prepared, out, *more)) == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    written = [json.loads(line) for line in documents.read_text(encoding="utf-8").splitlines()]
    assert (found["documents"], found["themes"], len(written)) == (6, 3, 6)
    assert found["theme"]["chance"] == pytest.approx(1 / 3)
    assert (found["theme"]["prior"]["documents"], found["theme"]["prior"]["chance"]) == (4, 0.25)
    for by in ("agreement", "agreement_likeliest"):
        assert found["theme"]["prior"][by] in (0, 0.25, 0.5, 0.75, 1)
    assert set(found["plan"]) == {"paragraph", "sentence"}
    assert sum(found["variance"]["real"].values()) == pytest.approx(1)
    assert found["copied"]["real"] == 1, "the real documents are the training text"
    assert (found["copied"]["written"] or 0) < 0.1, "null where no text is eight words long"
    assert all(len(record["theme_similarity"]) == record["structure"][0][0] for record in written)
    assert "chance 33.3%" in capsys.readouterr().out


def test_several_processes_write_what_one_writes(run: str, prepared: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    out = str(tmp_path / "generation.json")
    assert run_script(*command(run, prepared, Path(out), "--documents", str(one))) == 0
    forked(2, command(run, prepared, Path(out), "--documents", str(two)))
    texts = [
        [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()] for path in (one, two)
    ]
    assert texts[0] == texts[1]


def test_one_theme_of_the_prior_is_refused(
    run: str, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script, *arguments = command(run, prepared, tmp_path / "out.json", "--prior-themes", "1")
    assert "--prior-themes is 1" in refusal(capsys, tmp_path / "out.json", script, *arguments)


def test_a_model_without_themes_is_refused(
    make_run: MakeRun, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "generation.json"
    script, *arguments = command(make_run("sentence"), prepared, out)
    assert "a theme is a latent at level 'document'" in refusal(capsys, out, script, *arguments)


def test_four_levels_are_measured_too(
    settings: Callable[..., ModelConfig], make_processor: Callable[..., DocumentProcessor], tmp_path: Path
) -> None:
    """Documents that plain text cannot tell: what is written is encoded as it was planned."""
    levels = ("book", "chapter", "paragraph", "sentence")
    units = [[["The boat moved out.", "It was late."], ["The wind rose."]], [["Is there soup?"]]]
    data = tmp_path / "data.jsonl"
    records = [{"id": str(number), "units": units[: 1 + number % 2]} for number in range(3)]
    data.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    out = tmp_path / "generation.json"
    torch.manual_seed(0)
    build_model(settings(*levels[:2]), make_processor(*levels)).save_pretrained(tmp_path / "run")
    assert run_script(*command(str(tmp_path / "run"), data, out)) == 0
    assert json.loads(out.read_text(encoding="utf-8"))["themes"] == 3
