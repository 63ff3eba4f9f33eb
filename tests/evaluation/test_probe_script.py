"""eval/probe.py as a user runs it, on labels that the text gives away and on labels that it does not."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_scripts import refusal, run_script
from sklearn.linear_model import LogisticRegression
from tiny import DOCUMENT

from textvae.data.dataset import Documents
from textvae.data.document import SourceDocument
from textvae.evaluation.probing.classify import DENSE_STRENGTHS, fit_by_source, split_by_source
from textvae.evaluation.probing.classify import probe as probe_of
from textvae.evaluation.probing.examples import ENCODER, Examples, collect
from textvae.runs import load_run

TOPICS = {
    "sea": "A single boat moved out past the wall. The boats turned back one after the other.",
    "shop": "Old Marta had sold rope and lamps there for forty years.\n\nNobody had ever asked her to leave.",
    "night": "At midnight a light was seen.",
}
MakeRun = Callable[..., str]


@pytest.fixture(scope="module")
def run(make_run: MakeRun) -> str:
    return make_run(*DOCUMENT)


@pytest.fixture
def corpus(tmp_path: Path) -> Callable[..., str]:
    """Records -> a labelled source."""

    def write(records: Sequence[dict[str, Any]]) -> str:
        path = tmp_path / "labelled.jsonl"
        path.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
        return str(path)

    return write


def probe(run: str, data: str, out: Path, *more: str) -> int:
    return run_script("eval/probe.py", "--model", run, "--data", data, "--out", str(out), *more)


def labelled(*labels: str, field: str = "label") -> list[dict[str, Any]]:
    """One document for every label, its text given away by it."""
    return [{"text": TOPICS[label], field: label} for label in labels]


def test_a_label_that_the_text_gives_away(
    run: str, corpus: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Ten documents on the sea, ten on a shop, and one on a night that is too rare to be learned."""
    data = corpus(labelled(*["sea"] * 10, *["shop"] * 10, "night", field="topic"))
    out = tmp_path / "probe.json"
    assert probe(run, data, out, "--label", "topic") == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    assert {key: found[key] for key in ("label", "classes", "train", "test", "left_out_rare")} == {
        "label": "topic",
        "classes": 2,
        "train": 14,
        "test": 6,
        "left_out_rare": 1,
    }
    assert tuple(found["levels"]) == DOCUMENT
    perfect = {"accuracy": 1.0, "f1_macro": 1.0, "accuracy_error": 0.0}
    majority = found["baselines"].pop("majority")
    assert all(score == perfect for score in (*found["levels"].values(), *found["baselines"].values()))
    # Always the same answer: half right, F1 2/3 for the one class and 0 for the other.
    assert {key: majority[key] for key in perfect} == pytest.approx(
        {"accuracy": 0.5, "f1_macro": 1 / 3, "accuracy_error": 0.5 / math.sqrt(5)}
    )
    *scores, left_out = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in scores] == [*DOCUMENT, "majority", *found["baselines"]]
    sizes = dict.fromkeys(level.latent_size for level in load_run(run).config.model_config.levels)
    assert list(found["baselines"]) == ["encoder_mean", *(f"encoder_pca_{size}" for size in sizes), "bag_of_words"]
    assert left_out == "left out: 0 documents without a label, 1 documents of rare labels"


def test_a_label_that_the_text_says_nothing_of(run: str, corpus: Callable[..., str], tmp_path: Path) -> None:
    """The same text under two labels, one of them in six of twenty documents."""
    data = corpus([{"text": TOPICS["sea"], "label": "rare" if number % 10 < 3 else "frequent"} for number in range(20)])
    assert probe(run, data, tmp_path / "probe.json") == 0
    found = json.loads((tmp_path / "probe.json").read_text(encoding="utf-8"))
    majority = found["baselines"].pop("majority")
    assert majority["accuracy"] == pytest.approx(2 / 3), "two of the six tested documents are rare"
    assert all(score == majority for score in (*found["levels"].values(), *found["baselines"].values()))


def test_a_model_with_a_trained_encoder(make_run: MakeRun, corpus: Callable[..., str], tmp_path: Path) -> None:
    run = Path(make_run("document"))
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    config["settings"]["encoder"]["trainable"] = True
    (run / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (run / "checksums.json").unlink()
    assert probe(str(run), corpus(labelled(*["sea", "shop"] * 4)), tmp_path / "probe.json") == 0


@pytest.mark.parametrize("field", ["label", "topic"])
def test_documents_without_a_label_are_left_out_and_counted(
    run: str, corpus: Callable[..., str], tmp_path: Path, field: str
) -> None:
    """Null, NaN, empty, and no field at all."""
    text = TOPICS["night"]
    unlabelled = [{"text": text, field: value} for value in (None, float("nan"), "", "  ")] + [{"text": text}]
    data = corpus([*unlabelled, *labelled(*["sea"] * 10, *["shop"] * 10, field=field)])
    assert probe(run, data, tmp_path / "probe.json", "--label", field) == 0
    found = json.loads((tmp_path / "probe.json").read_text(encoding="utf-8"))
    assert (found["classes"], found["train"], found["test"]) == (2, 14, 6)
    assert (found["left_out_unlabelled"], found["left_out_rare"]) == (5, 0)


def test_a_split_of_its_own_is_tested_on(run: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """All of one split is trained on and all of the other tested, but for what is of a source or label of one side."""
    data, out = tmp_path / "data", tmp_path / "probe.json"
    data.mkdir()
    train = [{"id": f"a{n}"} | of for n, of in enumerate(labelled(*["sea"] * 6, *["shop"] * 4))]
    test = [{"id": f"b{n}"} | of for n, of in enumerate(labelled(*["sea"] * 3, *["shop"] * 5, "night"))]
    for name, records in (("train", train), ("test", [*test, train[0] | {"id": "a0"}])):
        (data / f"{name}.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    assert probe(run, str(data), out, "--split", "train", "--test-split", "test") == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    counted = ("classes", "train", "test", "left_out_rare", "left_out_shared")
    assert [found[key] for key in counted] == [2, 10, 8, 1, 1]
    assert all(score["accuracy"] == 1 for score in found["levels"].values())
    # What training has most of.
    assert found["baselines"]["majority"]["accuracy"] == 3 / 8
    printed = capsys.readouterr().out
    sizes = {level.name: level.latent_size for level in load_run(run).config.model_config.levels}
    for level, size in sizes.items():
        assert found["differences"][level] == {"to": f"encoder_pca_{size}", "accuracy": 0, "accuracy_error": 0}
        assert f"+0.000 ±0.000 to encoder_pca_{size}" in printed
    assert "1 documents of rare labels, 1 documents of sources that are trained on" in printed


def test_nothing_is_fitted_on_what_is_tested() -> None:
    """Examples are classified alike whatever is tested beside them: far off, in other words, and with a feature that is
    rounding elsewhere, where it would give the label away."""
    random = np.random.default_rng(0)

    def some(name: str, count: int, *, is_far: bool = False) -> Examples:
        labels = random.permutation(["left", "right"] * (count // 2))
        is_left = labels == "left"
        states = random.normal(size=(count, 6)) * ([1, 1, 1, 99, 1, 0] if is_far else [9, 9, 1, 1, 1, 0])
        states[:, 3] += 2 * is_left
        states[:, 5] = random.normal(size=count) if is_far else 1e-6 * is_left
        odds = np.linspace(2, 4, 12) / 36
        words = [random.choice(12, 8, p=odds if left else odds[::-1]) % (6 if is_far else 12) for left in is_left]
        texts = np.asarray([" ".join(map(str, numbers)) for numbers in words])
        sources = np.asarray([f"{name}-{n}" for n in range(count)])
        return Examples({"document": states[:, 3:5], ENCODER: states}, texts, labels, sources, 0)

    train, near, far = some("train", 60), some("near", 200), some("far", 600, is_far=True)
    apart = [probe_of(train, "label", 0, tested=part) for part in (near, far)]
    both = probe_of(train, "label", 0, tested=near.followed_by(far))
    assert 0.6 < apart[0].levels["document"].accuracy < 0.95
    for scores in ("levels", "baselines"):
        for name, of_both in getattr(both, scores).items():
            right = [getattr(part, scores)[name].accuracy * part.test for part in apart]
            assert of_both.accuracy * both.test == pytest.approx(sum(right)), name


def test_lengths_that_are_tested_are_in_the_classes_of_those_that_are_trained_on(run: str) -> None:
    """Of three sentences as long as in training, of one; what is longer than any is in the last class."""
    model = load_run(run)
    several, one = (Documents.of(model.process([SourceDocument("x", units=[lines])])) for lines in (LINES, LINES[:1]))
    trained = collect(model, several, "length")
    assert len(set(trained.labels)) == 3
    assert collect(model, one, "length", trained=trained).labels.tolist() == [trained.labels[0]]
    trained = collect(model, one, "length")
    assert collect(model, several, "length", trained=trained).labels.tolist() == [trained.labels[0]] * 3


def test_a_difference_is_paired_and_clustered() -> None:
    """A level that is the components themselves differs by nothing, however wide either's error is; one that says all
    is better by what components miss, with the error of the examples that they miss, by source."""
    random = np.random.default_rng(0)

    def some(name: str) -> Examples:
        labels = np.repeat(random.permutation(["left", "right"] * 20), 2)
        states = np.stack([np.where(labels == "left", 4.0, -4.0), 2 * np.repeat(random.normal(size=40), 2)], axis=1)
        states[:, 0] += np.repeat(random.normal(size=40) * 5, 2)
        told = np.where(labels == "left", 1.0, -1.0)[:, None] * [1, 1]
        sources = np.repeat([f"{name}-{n}" for n in range(40)], 2)
        values = {"same": states, "told": told, ENCODER: states}
        return Examples(values, np.asarray(["x"] * 80), labels, sources, 0)

    found = probe_of(some("train"), "label", 0, tested=some("test"))
    same, told = found.differences["same"], found.differences["told"]
    components = found.baselines["encoder_pca_2"]
    assert same.to == told.to == "encoder_pca_2"
    assert (same.accuracy, same.accuracy_error) == (0, 0)
    assert components.accuracy_error > 0.02
    assert told.accuracy == pytest.approx(1 - components.accuracy)
    # What is missed is missed in both examples of a source: as many observations as sources.
    missed = 1 - components.accuracy
    assert told.accuracy_error == pytest.approx(math.sqrt(missed * (1 - missed) / 39))


@pytest.mark.parametrize("seed", range(5))
def test_no_source_is_on_both_sides(seed: int) -> None:
    """Articles of one to nine sections, all of one label: three articles in ten are tested, of each label."""
    names = [f"article-{number}" for number in range(20) for _ in range(1 + number % 9)]
    labels = ["even" if int(name.rpartition("-")[2]) % 2 == 0 else "odd" for name in names]
    train, test = split_by_source(labels, names, "label", seed)
    assert sorted([*train, *test]) == list(range(len(names)))
    tested = {names[row] for row in test}
    assert not tested & {names[row] for row in train}
    assert len(tested) == 6
    assert sorted(int(name.rpartition("-")[2]) % 2 for name in tested) == [0, 0, 0, 1, 1, 1]


def test_a_probe_cannot_recognise_an_article_by_its_other_sections() -> None:
    """Features that tell the article and nothing of its label: what a split of sections would call knowledge."""
    random = np.random.default_rng(0)
    sources = np.repeat([f"article-{number}" for number in range(60)], 6)
    features = np.repeat(random.normal(size=(60, 200)), 6, axis=0) + 0.01 * random.normal(size=(360, 200))
    labels = np.repeat(random.permutation(["left", "right"] * 30), 6)
    values, texts = {"document": features, ENCODER: features}, np.asarray([f"of {name}" for name in sources])
    found = probe_of(Examples(values, texts, labels, sources, 0), "label", seed=0)
    assert found.levels["document"].accuracy < 0.75
    assert found.baselines["bag_of_words"].accuracy < 0.75
    leaking = np.arange(360).astype(str)
    assert probe_of(Examples(values, texts, labels, leaking, 0), "label", seed=0).levels["document"].accuracy == 1.0
    assert (found.train_sources, found.test_sources, found.test) == (42, 18, 108)


@pytest.mark.parametrize(
    ("records", "arguments", "message"),
    [
        (
            labelled("sea", "shop"),
            ["--label", "topic"],
            "no document has a field 'topic' to predict",
        ),
        (labelled("sea", "sea", "shop"), [], "field 'label' needs two or more values with two or more sources each"),
        (labelled(*TOPICS, *TOPICS), [], "3 values of field 'label' in 6 sources"),
        (labelled("sea", "shop"), ["--model", "LM"], "a plain language model has no encoder"),
        (labelled("sea", "shop"), ["--split", "test", "--test-split", "test"], "--split are both 'test'"),
        (labelled(*TOPICS, *TOPICS), ["--test-split", "test"], "6 examples are of sources that are trained on"),
    ],
    ids=["field", "one value", "few documents", "language model", "same split", "no splits"],
)
def test_what_cannot_be_probed_is_said_in_a_line(
    run: str,
    make_run: MakeRun,
    corpus: Callable[..., str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture,
    records: list[dict[str, Any]],
    arguments: list[str],
    message: str,
) -> None:
    given = [make_run() if word == "LM" else word for word in arguments]
    data = ["--model", run, "--data", corpus(records)]
    assert message in refusal(capfd, tmp_path / "probe.json", "eval/probe.py", *data, *given)


def test_components_are_those_of_the_training_part() -> None:
    """Two dimensions tell the label, and vary less than a hundred others: two components miss it, all states do not."""
    random = np.random.default_rng(0)
    labels = np.repeat(["left", "right"], 100)
    states = np.concatenate([random.normal(size=(200, 100)), 0.2 * random.normal(size=(200, 2))], axis=1)
    states[100:, 100:] += 0.8
    texts, sources = np.asarray(["x"] * 200), np.arange(200).astype(str)
    values = {"document": states[:, :2], ENCODER: states}
    found = probe_of(Examples(values, texts, labels, sources, 0), "label", seed=0)
    assert found.baselines["encoder_mean"].accuracy > 0.9
    assert found.baselines["encoder_pca_2"].accuracy < 0.75


def test_rounding_is_no_feature() -> None:
    """Equal texts in batches of different shapes: the last digits would give the label away."""
    labels = np.repeat(["left", "right"], [90, 60])
    states = np.full((150, 12), 0.3, dtype=np.float32)
    states[90:] += 1e-6
    texts, sources = np.asarray(["x"] * 150), np.arange(150).astype(str)
    found = probe_of(Examples({"document": states, ENCODER: states}, texts, labels, sources, 0), "label", 0)
    assert {*found.levels.values(), *found.baselines.values()} == {found.baselines["majority"]}


LINES = [
    "A boat.",
    "The old boats turned back one after the other, and nobody asked them why they had left.",
    "Marta sold rope and lamps there.",
]


def test_the_length_of_a_sentence_is_that_of_its_tokens_in_classes_of_equal_size(
    run: str, corpus: Callable[..., str], tmp_path: Path
) -> None:
    """Three lengths, equally many of each: three classes, which every sentence's state gives away."""
    data = corpus([{"paragraphs": [LINES]} for _ in range(8)])
    assert probe(run, data, tmp_path / "probe.json", "--task", "length") == 0
    found = json.loads((tmp_path / "probe.json").read_text(encoding="utf-8"))
    assert (found["task"], found["classes"], found["train"], found["test"]) == ("length", 3, 15, 9)
    assert (found["train_sources"], found["test_sources"]) == (5, 3)
    assert found["levels"]["sentence"]["accuracy"] == found["baselines"]["encoder_mean"]["accuracy"] == 1
    # The document is the same for all of its sentences.
    assert found["levels"]["document"]["accuracy"] == pytest.approx(1 / 3)


def test_examples_of_every_task_from_a_document(run: str) -> None:
    """Seven sentences in three paragraphs, and a document of one sentence."""
    model = load_run(run)
    paragraphs = [["One a.", "Two b."], ["Three c."], ["Four d.", "Five e.", "Six f.", "Seven g."]]
    sources = [SourceDocument("long", units=paragraphs), SourceDocument("short", units=[["One a."]])]
    documents = Documents.of(model.process(sources))
    flat = [sentence for paragraph in paragraphs for sentence in paragraph]
    children, position, order = (collect(model, documents, task) for task in ("children", "position", "order"))
    assert children.labels.tolist() == ["3", "1"]
    # Sentence number n of 7 stands in part floor(5 n / 7).
    assert position.labels.tolist() == ["1", "1", "2", "3", "3", "4", "5"]
    assert position.texts.tolist() == flat
    assert position.num_left_out == order.num_left_out == 1
    pairs = [(0, 1), (3, 4), (4, 5), (5, 6)]
    both = [text for a, b in pairs for text in (f"{flat[a]} {flat[b]}", f"{flat[b]} {flat[a]}")]
    assert order.texts.tolist() == both
    assert order.labels.tolist() == ["as written", "swapped"] * len(pairs)
    latents = position.features["sentence"]
    expected = [np.concatenate([latents[a], latents[b]]) for pair in pairs for a, b in (pair, pair[::-1])]
    np.testing.assert_allclose(order.features["sentence"], np.stack(expected))
    of_paragraph = model.encode(sources[0])["paragraph"].mean.numpy()
    np.testing.assert_allclose(position.features["paragraph"], of_paragraph[[0, 0, 1, 2, 2, 2, 2]], atol=1e-5)
    assert set(order.sources) == {"long"}


def test_a_few_examples_of_every_class_are_taken_from_the_training_part(
    run: str, corpus: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    data = corpus(labelled(*["sea"] * 10, *["shop"] * 10))
    assert probe(run, data, tmp_path / "probe.json", "--shots", "1", "5") == 0
    found = json.loads((tmp_path / "probe.json").read_text(encoding="utf-8"))["few_shot"]
    assert {name: list(of) for name, of in found.items()}["document"] == ["1", "5"]
    assert all(score == {"accuracy": 1.0, "deviation": 0.0} for of in found.values() for score in of.values())
    assert "document       accuracy 1.000  macro F1 1.000  1-shot 1.000  5-shot 1.000" in capsys.readouterr().out


def test_a_few_examples_choose_their_own_strength() -> None:
    """Of eighty dimensions half tell a little, and few examples need strong regularisation: as many as there are to
    train on tell as much as those do, more than the weakest regularisation."""
    random = np.random.default_rng(0)

    def some(name: str, count: int) -> Examples:
        labels = random.permutation(["left", "right"] * (count // 2))
        values = random.normal(size=(count, 80))
        values[:, :40] += np.where(labels == "left", 0.15, -0.15)[:, None]
        sources = np.asarray([f"{name}-{n}" for n in range(count)])
        features = {"document": values, ENCODER: values[:, :1]}
        return Examples(features, np.asarray(["x"] * count), labels, sources, 0)

    train, test = some("train", 120), some("test", 400)
    found = probe_of(train, "label", 0, [120], test)
    few, all_of_it = found.few_shot["document"]["120"].accuracy, found.levels["document"].accuracy
    weakest = LogisticRegression(C=max(DENSE_STRENGTHS)).fit(train.features["document"], train.labels)
    assert few == pytest.approx(all_of_it, abs=0.02)
    assert few > weakest.score(test.features["document"], test.labels) + 0.03


def test_the_strength_is_chosen_by_sources_that_were_not_learned_from() -> None:
    """Every source has a direction of its own, which tells nothing of others, and forty that tell all a little."""
    random = np.random.default_rng(0)
    sources = np.repeat(np.arange(60), 5)
    labels = np.repeat(random.permutation(["left", "right"] * 30), 5)
    shared = np.where(labels == "right", 0.15, -0.15)[:, None] + random.normal(size=(300, 40))
    values = np.concatenate([6 * np.eye(60)[sources], shared], axis=1)
    by_source = fit_by_source(values, labels, sources, DENSE_STRENGTHS).best_score_
    by_example = fit_by_source(values, labels, np.arange(300), DENSE_STRENGTHS).best_score_
    assert by_source < 0.9 < by_example


def test_a_fold_that_leaves_one_label_to_learn_is_passed_over() -> None:
    """Four examples of three sources: one of the folds holds both of one label's."""
    labels, sources = np.asarray(["left", "left", "right", "right"]), np.asarray(["c", "b", "b", "a"])
    values = np.asarray([[1.0], [1.0], [-1.0], [-1.0]])
    assert fit_by_source(values, labels, sources, DENSE_STRENGTHS).predict(values).tolist() == labels.tolist()
