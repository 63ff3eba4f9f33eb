"""Collections as they are found: BEIR's and TREC's judgements, queries with whatever JSON may hold, folders."""

import json
from pathlib import Path

import pytest

from textvae.evaluation.collection import Judged, beir_files, read_judged

BEIR = "query-id\tcorpus-id\tscore\nq1\td 1\t2\n\nq1\td2\t0\nq2\td2\t1\n"


@pytest.fixture
def queries(tmp_path: Path) -> Path:
    path = tmp_path / "queries.jsonl"
    lines = [json.dumps({"_id": name, "text": f"text of {name}"}) for name in ("q1", "q2", "q3")]
    path.write_text("\n\n".join(lines) + "\n\n", encoding="utf-8")
    return path


def judged(queries: Path, qrels: str, searched: str = "d1 d2", others: str = "") -> Judged:
    path = queries.with_name("qrels.tsv")
    path.write_text(qrels, encoding="utf-8")
    return read_judged(str(queries), str(path), {"d 1", *searched.split()}, others.split)


def test_judgements_are_read_and_queries_without_any_are_left_out(queries: Path) -> None:
    found = judged(queries, BEIR)
    assert found.relevant == {"q1": {"d 1": 2, "d2": 0}, "q2": {"d2": 1}}
    assert found.queries == {"q1": "text of q1", "q2": "text of q2"}


def test_judgements_of_trec_are_those_of_beir(queries: Path) -> None:
    expected = judged(queries, BEIR.replace("d 1", "d1"))
    assert judged(queries, "q1 0 d1 2\nq1\t0\td2\t0\nq2  Q0  d2  1 \n") == expected


def test_nothing_in_judgements_is_quoted(queries: Path) -> None:
    assert judged(queries, 'q1\t"d\t1\nq2\td"\t1', '"d d"').relevant == {"q1": {'"d': 1}, "q2": {'d"': 1}}


@pytest.mark.parametrize("character", ["\u2028", "\u2029", "\u0085"])
def test_a_query_is_a_line_of_the_file_whatever_its_string_holds(queries: Path, character: str) -> None:
    record = {"_id": "q1", "text": f"one{character}line"}
    queries.write_text(json.dumps(record, ensure_ascii=False), encoding="utf-8")
    assert judged(queries, "q1\td1\t1").queries == {"q1": "one line"}


def test_a_byte_order_mark_is_no_part_of_the_first_id(queries: Path) -> None:
    assert judged(queries, "\ufeffq1\td1\t1").relevant == {"q1": {"d1": 1}}


def test_documents_that_the_corpus_has_need_not_be_searched(queries: Path) -> None:
    found = judged(queries, "q1\td1\t1\nq1\tvoid\t1\nq2\tvoid\t1", others="d1 d2 void")
    assert found.missed == {"void"}
    assert found.relevant == {"q1": {"d1": 1, "void": 1}, "q2": {"void": 1}}
    with pytest.raises(ValueError, match="line 2: there is no document 'void'"):
        judged(queries, "q1\td1\t1\nq1\tvoid\t1", others="d1 d2")


def test_queries_without_text_are_kept_but_not_asked(queries: Path) -> None:
    lines = [{"_id": "q1", "text": ""}, {"_id": "q2", "text": None}, {"_id": "q3", "text": "some"}]
    queries.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    found = judged(queries, "q1\td1\t1\nq2\td1\t1\nq3\td1\t1")
    assert list(found.queries) == ["q1", "q2", "q3"]
    assert found.asked == {"q3": "some"}
    with pytest.raises(ValueError, match="holds no judgement of a query with text"):
        judged(queries, "q1\td1\t1")


def test_what_is_not_utf_8_is_named(queries: Path) -> None:
    queries.write_bytes(b'{"_id": "q1", "text": "a"}\n{"_id": "q2", "text": "\xe9"}')
    with pytest.raises(ValueError, match=r"queries\.jsonl, line 2: not valid UTF-8 at byte 23"):
        judged(queries, "q1\td1\t1")


def collection(folder: Path, *names: str) -> str:
    (folder / "qrels").mkdir(parents=True)
    for name in names:
        (folder / name).touch()
    return str(folder)


@pytest.mark.parametrize(
    ("qrels", "split", "chosen"),
    [
        (["qrels/test.tsv", "qrels/dev.tsv", "qrels.tsv"], None, "qrels/test.tsv"),
        (["qrels/test.tsv", "qrels/dev.tsv", "qrels.tsv"], "dev", "qrels/dev.tsv"),
        (["qrels/dev.tsv", "qrels.tsv"], None, "qrels.tsv"),
    ],
)
def test_the_judgements_of_a_folder(tmp_path: Path, qrels: list[str], split: str | None, chosen: str) -> None:
    found = beir_files(collection(tmp_path / "beir", "corpus.jsonl", "queries.jsonl", *qrels), split)
    assert found.qrels == str(tmp_path / "beir" / chosen)
    assert (Path(found.corpus).name, Path(found.queries).name) == ("corpus.jsonl", "queries.jsonl")


@pytest.mark.parametrize(
    ("names", "split", "said"),
    [
        (["corpus.jsonl"], None, "it has no queries.jsonl, no qrels/test.tsv or qrels.tsv; give"),
        (["corpus.jsonl", "queries.jsonl", "qrels.tsv"], "dev", r"no qrels/dev.tsv \(of judgements it has qrels.tsv"),
        (["corpus.jsonl", "queries.jsonl", "qrels/dev.tsv"], None, r"\(of judgements it has qrels/dev.tsv"),
    ],
)
def test_all_that_a_folder_lacks_is_one_error(tmp_path: Path, names: list[str], split: str | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        beir_files(collection(tmp_path / "beir", *names), split)


def test_a_folder_that_is_not_there_lacks_everything(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"it has no corpus.jsonl, no queries.jsonl, no qrels/test.tsv or qrels.tsv"):
        beir_files(str(tmp_path / "nowhere"))
