"""What is measured of written documents, where the answers are known, and eval/generation.py as a user runs it."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from run_scripts import forked, refusal, run_script
from tiny import DOCUMENT
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase

from textvae.build import build_model
from textvae.config import ModelConfig
from textvae.data.dataset import Documents, load_prepared
from textvae.data.text.processor import DocumentProcessor
from textvae.evaluation.generation import (
    Embedded,
    Judge,
    agreement,
    choose_themes,
    copied,
    distinct,
    drift,
    self_bleu,
    tfidf_agreement,
)

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


def test_tfidf_agreement_goes_by_the_words_that_tell_themes_apart() -> None:
    written = ["A harbour. Boats!", "Lamps, rope: a shop.", "Harbour wall"]
    assert tfidf_agreement(written, [SEA, SHOP], np.array([0, 1, 1])) == pytest.approx(2 / 3)


def test_drift_is_the_cosine_to_the_own_theme_about_the_common_mean() -> None:
    real = Embedded(np.zeros((2, 1)), np.array([[3.0, 1.0], [1.0, 1.0]]), [np.array([[3.0, 1.0]] * 2), np.ones((1, 2))])
    written = Embedded(np.zeros((1, 1)), np.zeros((1, 2)), [np.array([[9.0, 1.0], [-9.0, 1.0], [2.0, 5.0]])])
    found = drift(written, real, np.array([0]))
    np.testing.assert_allclose(found.written, [[1, -1, 0]], atol=1e-6)
    # The only paragraph of the second document has no rest to be compared with.
    np.testing.assert_allclose(found.real, [[1, 1]])


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


def test_themes_are_of_different_sources(prepared: Path) -> None:
    split = load_prepared(prepared, "train")
    members = [split.read(row) for row in (0, 1, 2)]
    sections = [replace(member, id=f"{member.id}/{part}") for member in members for part in (1, 2)]
    documents = Documents.of(sections)
    assert len(choose_themes(documents, 10)) == 3
    assert len(set(choose_themes(documents, 2).source_ids)) == 2
    with pytest.raises(ValueError, match="told from others"):
        choose_themes(documents.select([0, 1]), 10)


def test_the_file_holds_what_was_written_and_what_real_text_gives(
    run: str, prepared: Path, decoder_folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, documents = tmp_path / "generation.json", tmp_path / "new" / "documents.jsonl"
    more = ("--num", "2", "--copied-from", "train", "--documents", str(documents), "--limit", "3")
    assert run_script(*command(run, prepared, out, *more)) == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    written = [json.loads(line) for line in documents.read_text(encoding="utf-8").splitlines()]
    assert (found["documents"], found["themes"], len(written)) == (6, 3, 6)
    assert found["theme"]["chance"] == pytest.approx(1 / 3)
    assert found["copied"]["real"] == 1, "the real documents are the training text"
    assert found["copied"]["written"] < 0.1
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
