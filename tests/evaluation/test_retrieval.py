"""eval/retrieval.py as a user runs it, and its measures on rankings whose scores are known."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_scripts import refusal, run_script
from tiny import DOCUMENT
from torch import nn

from textvae.data.dataset import Documents
from textvae.data.document import SourceDocument
from textvae.evaluation.collection import Judged
from textvae.evaluation.retrieval import Ranking, rank, score
from textvae.text_vae import HierarchicalTextVAE

MakeRun = Callable[..., str]
TEXTS = {
    "sea": "A single boat moved out past the wall. The boats turned back one after the other.",
    "shop": "Old Marta had sold rope and lamps there for forty years.\n\nNobody had ever asked her to leave.",
    "night": "At midnight a light was seen. Everybody laughed.",
}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Every text is the answer to its own first sentence."""
    found = {name: tmp_path / name for name in ("corpus.jsonl", "queries.jsonl", "qrels.tsv")}
    corpus = [json.dumps({"_id": name, "title": "", "text": text}) for name, text in TEXTS.items()]
    queries = [json.dumps({"_id": f"q-{name}", "text": text.split(".")[0]}) for name, text in TEXTS.items()]
    found["corpus.jsonl"].write_text("\n".join(corpus), encoding="utf-8")
    found["queries.jsonl"].write_text("\n".join(queries), encoding="utf-8")
    rows = ["query-id\tcorpus-id\tscore", *(f"q-{name}\t{name}\t1" for name in TEXTS)]
    found["qrels.tsv"].write_text("\n".join(rows), encoding="utf-8")
    return found


def arguments(run: str, files: dict[str, Path]) -> list[str]:
    given = [f"--{name.partition('.')[0]}={path}" for name, path in files.items()]
    return ["--model", run, *given]


def result_of(run: str, files: dict[str, Path], out: Path, *more: str) -> dict[str, Any]:
    assert run_script("eval/retrieval.py", *arguments(run, files), "--out", str(out), *more) == 0
    return json.loads(out.read_text(encoding="utf-8"))


def append(file: Path, line: str) -> None:
    file.write_text(f"{file.read_text(encoding='utf-8')}\n{line}\n", encoding="utf-8")


def test_measures_are_those_of_the_ranking() -> None:
    """The only relevant document second of three, and first of them."""
    judged = Judged({"one": "", "two": ""}, {"one": {"b": 1}, "two": {"a": 1}})
    scores = np.array([3.0, 2, 1])
    found = score(judged, {"one": Ranking("abc", scores), "two": Ranking("acb", scores)}, 4, 0)
    assert found.values["mrr@10"] == pytest.approx((1 / 2 + 1) / 2)
    assert found.values["ndcg@10"] == pytest.approx((1 / math.log2(3) + 1) / 2)
    assert found.values["recall@100"] == 1
    low, high = found.intervals["mrr@10"]
    assert (low, high) == (0.5, 1)


def test_a_query_without_a_ranking_finds_nothing() -> None:
    judged = Judged({"one": "", "two": "", "three": ""}, {"one": {"a": 1}, "two": {"a": 1}, "three": {"a": 1}})
    found = score(judged, {"one": Ranking("a", np.array([1.0])), "two": Ranking((), np.array([]))}, None, 0)
    assert found.values == pytest.approx(dict.fromkeys(found.values, 1 / 3))


def test_every_system_is_in_the_file(
    run: str, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = result_of(run, files, tmp_path / "retrieval.json")
    assert (result["queries"], result["documents"]) == (3, 3)
    own = {f"textvae_{level}{by}" for level in DOCUMENT for by in ("", "_words", "_both")}
    assert set(result["systems"]) == own | {"textvae_two_stage", "encoder_mean", "encoder_pca", "bm25", "hybrid"}
    assert result["systems"]["bm25"]["ndcg@10"] == 1, "the words of each query are in its document alone"
    assert result["systems"]["hybrid"]["ndcg@10"] == 1, "and so is the sentence that the query is"
    # The query is a sentence of its document, which the encoder reads alike in both.
    assert result["systems"]["textvae_two_stage"]["mrr@10"] == 1
    assert "bm25" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("qrels.tsv", "q-sea\tnobody\t1", "line 1: there is no document 'nobody'"),
        ("qrels.tsv", "query\tdocument\tscore\nnobody\tsea\t1", "line 2: there is no query 'nobody'"),
        ("qrels.tsv", "q-sea sea 1", "line 1: this is no judgement"),
        ("qrels.tsv", "query\tdocument\tscore", "holds no judgement"),
        ("queries.jsonl", '{"_id": "q", "title": "no text"}', "line 1: this is no query"),
        ("qrels.tsv", "q-sea\tsea\t1\n\nq-sea\tsea\tmuch", "line 3: this is no judgement"),
    ],
)
def test_bad_input_is_named(
    run: str,
    files: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    text: str,
    said: str,
) -> None:
    files[name].write_text(text, encoding="utf-8")
    message = refusal(capsys, tmp_path / "out.json", "eval/retrieval.py", *arguments(run, files))
    assert said in message
    assert str(files[name]) in message


def test_judged_documents_and_queries_without_text_count_and_are_not_found(
    run: str, files: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Two of the five documents that are relevant, one of the four queries."""
    for name, text in (("void", ""), ("null", None)):
        append(files["corpus.jsonl"], json.dumps({"_id": name, "title": "Boat", "text": text}))
    append(files["qrels.tsv"], "q-sea\tvoid\t1\nq-shop\tnull\t1\nq-void\tsea\t1")
    append(files["queries.jsonl"], json.dumps({"_id": "q-void", "text": " "}))
    result = result_of(run, files, tmp_path / "retrieval.json")
    assert (result["queries"], result["queries_without_text"]) == (4, 1)
    assert (result["documents"], result["judged_not_searched"]) == (3, 2)
    for system in result["systems"].values():
        assert system["recall@100"] == (1 / 2 + 1 / 2 + 1 + 0) / 4
    assert "2 judged documents, such as 'null', are not searched" in caplog.text
    assert "1 judged queries have no text" in caplog.text
    assert "set aside 'void': it has a title, but no sentence" in caplog.text


def test_sections_count_as_the_document_that_they_are_of(run: str, files: dict[str, Path], tmp_path: Path) -> None:
    result = result_of(run, files, tmp_path / "retrieval.json", "--max-document-sentences", "1")
    assert (result["documents"], result["sources"]) == (6, 3)
    assert all(system["recall@100"] == 1 for system in result["systems"].values())
    # Each query is the first of its document's sections, and has no word in common with any other.
    assert result["systems"]["bm25"]["mrr@10"] == result["systems"]["textvae_two_stage"]["mrr@10"] == 1


def test_documents_beyond_the_limit_are_relevant_and_not_found(
    run: str, files: dict[str, Path], tmp_path: Path
) -> None:
    result = result_of(run, files, tmp_path / "retrieval.json", "--limit", "2")
    assert (result["documents"], result["judged_not_searched"]) == (2, 1)
    assert result["systems"]["encoder_mean"]["recall@100"] == 2 / 3


def test_bm25_does_not_find_what_has_no_word_of_the_query(run: str, files: dict[str, Path], tmp_path: Path) -> None:
    files["queries.jsonl"].write_text('{"_id": "q-sea", "text": "zzyzx"}', encoding="utf-8")
    files["qrels.tsv"].write_text("q-sea\tsea\t1", encoding="utf-8")
    systems = result_of(run, files, tmp_path / "retrieval.json")["systems"]
    assert systems["bm25"]["recall@100"] == 0
    assert systems["encoder_mean"]["recall@100"] == 1


def test_a_beir_folder_is_its_three_files(run: str, files: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "qrels").mkdir()
    folder = {"qrels.tsv": tmp_path / "qrels" / "dev.tsv"}
    files["qrels.tsv"].rename(folder["qrels.tsv"])
    expected = result_of(run, files | folder, tmp_path / "files.json")
    given = ["--model", run, "--beir", str(tmp_path), "--qrels-split", "dev", "--out", str(tmp_path / "folder.json")]
    assert run_script("eval/retrieval.py", *given) == 0
    assert json.loads((tmp_path / "folder.json").read_text(encoding="utf-8")) == expected


@pytest.mark.parametrize(
    "given",
    [
        [],
        ["--corpus=C", "--queries=Q"],
        ["--beir=B", "--qrels=R"],
        ["--beir=B", "--corpus=C", "--queries=Q", "--qrels=R"],
        ["--qrels-split=dev", "--corpus=C", "--queries=Q", "--qrels=R"],
    ],
)
def test_a_collection_is_a_folder_or_three_files(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    message = refusal(capsys, tmp_path / "out.json", "eval/retrieval.py", "--model=none", *given)
    assert "give --beir FOLDER (with --qrels-split SPLIT), or --corpus, --queries and --qrels" in message


def test_the_encoder_reads_everything_once(model: HierarchicalTextVAE, run: str) -> None:
    """Whatever the number of systems; queries a second time, as the one sentence that latents are inferred from."""
    documents = model.process([SourceDocument(name, text=text) for name, text in TEXTS.items()])
    queries = {"one": "A boat.", "two": "Rope and lamps. Old Marta.", "three": "Midnight."}
    read: list[int] = []

    def count(module: nn.Module, inputs: tuple[Any, int]) -> None:
        read.append(inputs[1])

    handle = model.encoder.register_forward_pre_hook(count)
    systems = list(rank(model, run, Documents.of(documents), queries))
    handle.remove()
    assert len(systems) == 14
    assert sum(read) == sum(len(document.sentences) for document in documents) + 4 + 3
