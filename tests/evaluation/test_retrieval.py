"""eval/retrieval.py as a user runs it, and its measures on rankings whose scores are known."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from run_scripts import refusal, run_script
from tiny import DOCUMENT

from textvae.evaluation.retrieval import Judged, read_judged, score

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


def test_measures_are_those_of_the_ranking() -> None:
    """The only relevant document second of three, and a query whose document is not found among the best."""
    judged = Judged({"one": "", "two": ""}, {"one": {"b": 1}, "two": {"a": 1}})
    found = score(judged, ["a", "b", "c"], {"one": np.array([3.0, 2, 1]), "two": np.array([9.0, 1, 2])}, 4, 0)
    assert found.values["mrr@10"] == pytest.approx((1 / 2 + 1) / 2)
    assert found.values["ndcg@10"] == pytest.approx((1 / math.log2(3) + 1) / 2)
    assert found.values["recall@100"] == 1
    low, high = found.intervals["mrr@10"]
    assert (low, high) == (0.5, 1)


def test_every_system_is_in_the_file(
    run: str, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "retrieval.json"
    assert run_script("eval/retrieval.py", *arguments(run, files), "--out", str(out)) == 0
    result = json.loads(out.read_text(encoding="utf-8"))
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
        ("queries.jsonl", '{"_id": "q", "text": " "}', "the query is empty"),
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


def test_queries_without_a_judgement_are_left_out(files: dict[str, Path]) -> None:
    files["qrels.tsv"].write_text("q-sea\tsea\t1", encoding="utf-8")
    assert list(read_judged(str(files["queries.jsonl"]), str(files["qrels.tsv"]), list(TEXTS)).queries) == ["q-sea"]
