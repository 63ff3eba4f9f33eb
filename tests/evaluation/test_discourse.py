"""DiscoEval's tasks: items of published files and of a corpus, and what a probe is given of them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from run_scripts import refusal, run_script
from tiny import DOCUMENT

from textvae.data.dataset import Documents
from textvae.data.document import SourceDocument
from textvae.evaluation.probing.classify import divide_sources
from textvae.evaluation.probing.discourse import DISCOURSE, documents_of, make_items, read_items, task_folders, unseen
from textvae.evaluation.probing.examples import ENCODER, collect
from textvae.text_vae import HierarchicalTextVAE

FIVE = ["Two b.", "One a.", "Three c.", "Four d.", "Five e."]
LINES = {
    "SP": "\t".join(["1", *FIVE]),
    "BSO": "One a.\tTwo b.",
    "DC": "\t".join(["0", *FIVE, "Six f."]),
}
DOCUMENTS = 24


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """The published layout: of BSO the first sentence is always of a boat, and the second of Marta."""
    for task, corpus in (("BSO", "rocstory"), ("SP", "wiki"), ("SSP", "abs")):
        folder = tmp_path / "data" / task / corpus
        folder.mkdir(parents=True)
        for part in ("train", "valid", "test"):
            lines = [f"The boat moved out {part} {n}.\tOld Marta had sold rope {part} {n}." for n in range(12)]
            (folder / f"{part}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "data" / "SP" / "wiki" / "train.txt").unlink()
    return tmp_path / "data"


@pytest.fixture(scope="module")
def corpus(model: HierarchicalTextVAE) -> Documents:
    """Documents of three to nine sentences, all different, in paragraphs of two; every other one is of the same source
    as the one before."""
    sources = []
    for number in range(DOCUMENTS):
        sentences = [f"Sentence {place} of {number}." for place in range(3 + number % 7)]
        units = [sentences[place : place + 2] for place in range(0, len(sentences), 2)]
        sources.append(SourceDocument(f"source-{number}", units=units))
    found = Documents.of(model.process(sources))
    return Documents(
        found.read, found.token_counts, found.ids, [f"source-{number // 2}" for number in range(DOCUMENTS)]
    )


def text_of(documents: Documents, row: int) -> list[str]:
    return [sentence.strip() for sentence in documents.read(row).sentences]


def are_beside(sentences: tuple[str, ...], documents: Documents) -> bool:
    """Whether they are consecutive sentences of one document, in order."""
    texts = (text_of(documents, row) for row in range(len(documents)))
    return any(list(sentences) == text[start : start + len(sentences)] for text in texts for start in range(len(text)))


def test_published_lines_are_read_as_they_were_meant(tmp_path: Path) -> None:
    """The label first, then the sentences; of BSO two sentences in order, which are given both ways round."""
    expected = {
        "SP": [(tuple(FIVE), "1")],
        "BSO": [(("One a.", "Two b."), "1"), (("Two b.", "One a."), "0")],
        "DC": [((*FIVE, "Six f."), "0")],
    }
    for task, line in LINES.items():
        path = tmp_path / f"{task}.txt"
        path.write_text("".join(f"{line}\n" for _ in range(9)), encoding="utf-8")
        items = read_items(path, task)
        assert [(item.sentences, item.label) for item in items] == expected[task] * 9
        assert len({item.source for item in items}) == 9
        few = read_items(path, task, limit=3)
        assert [item.source for item in few[:: len(expected[task])]] == [f"{path}:{line}" for line in (1, 5, 9)]


@pytest.mark.parametrize(
    ("task", "content", "message"),
    [
        ("SP", f"{LINES['SP']}\n{LINES['DC']}", "line 2 of '.*' is not a label (0, 1, 2, 3, 4) and 5 sentences"),
        ("SP", LINES["SP"].replace("1", "5"), "the label of line 1 of '.*' is '5', not a label (0, 1, 2, 3, 4)"),
        ("BSO", "1\tOne a.\tTwo b.", "line 1 of '.*' is not 2 sentences"),
        ("DC", LINES["DC"].replace("One a.", " "), "line 1 of '.*' is not a label (0, 1) and 6 sentences"),
        ("DC", "\n\n", "holds no line"),
    ],
)
def test_a_line_of_another_form_is_named(tmp_path: Path, task: str, content: str, message: str) -> None:
    path = tmp_path / "train.txt"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        read_items(path, task)


def test_items_of_a_corpus_are_what_the_task_says(corpus: Documents) -> None:
    made = {task: make_items(corpus, task, seed=1) for task in DISCOURSE}
    for task, (items, too_short) in made.items():
        enough = sum(len(text_of(corpus, row)) >= DISCOURSE[task].num_sentences for row in range(DOCUMENTS))
        assert len(items) == enough * (2 if task == "BSO" else 1)
        assert too_short == DOCUMENTS - enough
        assert len({item.label for item in items}) > 1
    for item in made["SP"][0]:
        first, *others = item.sentences
        others.insert(int(item.label), first)
        assert are_beside(tuple(others), corpus)
    for item in made["BSO"][0]:
        assert are_beside(item.sentences if item.label == "1" else item.sentences[::-1], corpus)
    for item in made["DC"][0]:
        of = [sentence.split()[-1] for sentence in item.sentences]
        others = [place for place in range(6) if of[place] != of[0]]
        assert are_beside(item.sentences, corpus) == (item.label == "1") == (not others)
        if others:
            assert len(others) == 1
            assert 0 < others[0] < 5
            sources = [f"source-{int(number.rstrip('.')) // 2}" for number in (of[0], of[others[0]])]
            assert sources[0] == item.source != sources[1]


def test_items_are_drawn_by_seed_and_document_alone(corpus: Documents) -> None:
    """The same again, others by another seed, and of some documents what they are among all."""
    for task in DISCOURSE:
        items, _ = make_items(corpus, task, seed=1)
        assert make_items(corpus, task, seed=1)[0] == items
        assert make_items(corpus, task, seed=2)[0] != items
        if task != "DC":  # which borrows of the others
            assert make_items(corpus.select(range(12, DOCUMENTS)), task, seed=1)[0] == items[-len(items) // 2 :]


@pytest.mark.parametrize("seed", range(3))
def test_no_sentence_is_on_both_sides(corpus: Documents, seed: int) -> None:
    train, test = (make_items(corpus.select(rows), "DC", seed)[0] for rows in divide_sources(corpus.source_ids, seed))
    trained, tested = ({sentence for item in part for sentence in item.sentences} for part in (train, test))
    assert trained
    assert tested
    assert not trained & tested
    assert unseen(test, train) == test
    assert unseen([*train[:2], *test], train[1:2]) == [train[0], *test]


def test_a_probe_is_given_what_was_published_of_contextual_latents(model: HierarchicalTextVAE, tmp_path: Path) -> None:
    """Five sentences read as one document, one of them too long and read in pieces; the pretrained states likewise."""
    long = " ".join(["The people stood on the wall and said very little."] * 6)
    for task, count in (("SP", 5), ("BSO", 2), ("DC", 6)):
        sentences = ["The harbour lay quiet.", long, "Is there soup?", "Old Marta watched it.", "Two b.", "A boat."]
        line = [*DISCOURSE[task].labels[:1], *sentences[:count]]
        path = tmp_path / "items.txt"
        path.write_text("\t".join(line), encoding="utf-8")
        items = read_items(path, task)[:1]
        found = collect(model, documents_of(items, model.processor), task)
        latents = model.encode(SourceDocument("whole", units=[sentences[:count]]))
        rows, pieces = latents["sentence"].mean.numpy(), len(latents["sentence"].mean) - count + 1
        assert pieces > 1
        x = np.stack([rows[0], rows[1 : 1 + pieces].mean(0), *rows[1 + pieces :]])
        if task == "SP":
            combined = [x[0], x[0] - x[1], x[0] - x[2], x[0] - x[3], x[0] - x[4]]
        else:
            combined = [x[0], x[1], x[0] - x[1]] if task == "BSO" else list(x)
        of_levels = [latents["document"].mean[0].numpy(), latents["paragraph"].mean[0].numpy(), np.hstack(combined)]
        for name, expected in zip((*DOCUMENT, "+".join(DOCUMENT)), (*of_levels, np.hstack(of_levels)), strict=True):
            np.testing.assert_allclose(found.features[name], expected[None], atol=1e-5)
        assert found.features[ENCODER].shape == (1, len(combined) * 32)
        assert list(found.features)[-1] == ENCODER


def probe(run: str, out: Path, *more: str) -> int:
    return run_script("eval/probe.py", "--model", run, "--out", str(out), *more)


def test_every_task_of_a_folder_is_probed(
    run: str, published: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Which of two sentences comes first is given away; what cannot be used is named."""
    out = tmp_path / "probe.json"
    assert probe(run, out, "--discoeval", str(published), "--limit", "10") == 0
    (name, found), *others = json.loads(out.read_text(encoding="utf-8"))["tasks"].items()
    assert (name, others) == ("BSO/rocstory", [])
    assert [found[key] for key in ("classes", "train", "test", "train_sources", "test_sources")] == [2, 20, 20, 10, 10]
    assert found["levels"]["sentence"]["accuracy"] == found["baselines"]["encoder_mean"]["accuracy"] == 1
    assert found["baselines"]["majority"]["accuracy"] == found["baselines"]["bag_of_words"]["accuracy"] == 0.5
    assert caplog.messages == ["not read, of another task or without train.txt or test.txt: SP/wiki, SSP/abs"]
    alone = tmp_path / "alone.json"
    assert probe(run, alone, "--discoeval", str(published / "BSO" / "rocstory"), "--limit", "10") == 0
    assert json.loads(alone.read_text(encoding="utf-8"))["tasks"] == {name: found}


def test_a_folder_whose_name_comes_again_is_named_not_read(published: Path) -> None:
    shutil.copytree(published / "BSO", published / "copy" / "BSO")
    found, left = task_folders(published)
    assert found == {"BSO/rocstory": published / "BSO" / "rocstory"}
    assert left == ["SP/wiki", "SSP/abs", "copy/BSO/rocstory"]


def test_the_tasks_are_made_of_any_corpus(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Thirty documents, two of which say what another of the training part does; ten are too short."""
    data = tmp_path / "data"
    data.mkdir()
    for part, first in (("train", 0), ("test", 100)):
        texts = [[f"Boat {n} moved.", f"Marta {n} sold rope."] for n in range(first, first + 12)]
        texts += [[f"Light {n}."] for n in range(first, first + 5)]
        texts[:1] = [["Boat moved.", "Marta sold rope."]]
        lines = [json.dumps({"id": f"{part}-{n}", "paragraphs": [text]}) for n, text in enumerate(texts)]
        (data / f"{part}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    out = tmp_path / "probe.json"
    both = ["--split", "train", "--test-split", "test"]
    assert probe(run, out, "--data", str(data), "--task", "BSO", *both) == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    assert [found[key] for key in ("task", "train", "test", "left_out_seen", "left_out_unlabelled")] == [
        "BSO",
        24,
        22,
        2,
        10,
    ]
    assert found["levels"]["sentence"]["accuracy"] == 1
    assert "left out: 10 documents of fewer than 2 sentences" in capsys.readouterr().out
    assert probe(run, out, "--data", str(data), "--task", "BSO", "--split", "train") == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    # Three in ten of the seventeen, however many of them are long enough.
    assert found["train"] + found["test"] == 24
    assert found["levels"]["sentence"]["accuracy"] == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--discoeval", "FOLDER", "--data", "x.jsonl"], "give --data or --discoeval, one of them"),
        ([], "give --data or --discoeval, one of them"),
        (["--discoeval", "FOLDER", "--task", "SP"], "--task is of --data"),
        (["--discoeval", "FOLDER", "--test-split", "test"], "--test-split is of --data"),
        (["--discoeval", "FOLDER/SP"], "holds no folder of DiscoEval's SP, BSO, DC with train.txt and test.txt"),
        (["--discoeval", "FOLDER", "--limit", "0"], "--limit is 0; it must be 1 or more"),
    ],
)
def test_what_cannot_be_probed_is_said(
    run: str, published: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    given = [word.replace("FOLDER", str(published)) for word in arguments]
    assert message in refusal(capfd, tmp_path / "out.json", "eval/probe.py", "--model", run, *given)


def test_a_model_without_sentences_has_none_to_probe(make_processor: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match="the model has no sentences below its document"):
        documents_of([], make_processor("document"))
