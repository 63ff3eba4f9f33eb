"""Retrieval collections in BEIR's layout (Thakur et al. 2021): a corpus, queries, and judgements of relevance."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from textvae.data.text.segmentation import normalise

_BEIR = re.compile(r"([^\t]*)\t([^\t]*)\t([^\t]*)")
_TREC = re.compile(r"\s*(\S+)\s+\S+\s+(\S+)\s+(\S+)\s*")
_INTEGER = re.compile(r"\s*[-+]?[0-9]+\s*")


@dataclass(frozen=True)
class CollectionFiles:
    corpus: str
    queries: str
    qrels: str


@dataclass(frozen=True)
class Judged:
    queries: dict[str, str]
    """By id, in normal form; only those with a judgement. One without text finds nothing."""
    relevant: dict[str, dict[str, int]]
    """By query, degree of relevance by document."""
    missed: frozenset[str] = frozenset()
    """Documents that are judged, and in the corpus, but not searched: they stay relevant, and are never found."""

    @property
    def asked(self) -> dict[str, str]:
        """The queries that have text."""
        return {name: text for name, text in self.queries.items() if text}


def beir_files(folder: str, split: str | None = None) -> CollectionFiles:
    """What a folder of BEIR holds: `corpus.jsonl`, `queries.jsonl` and the judgements `qrels/SPLIT.tsv`, by default
    those of `test` or, where there are none, `qrels.tsv`. Raises ValueError naming all that is missing."""
    root = Path(folder)
    judgements = [root / "qrels" / f"{split or 'test'}.tsv"] + ([] if split else [root / "qrels.tsv"])
    wanted = [[root / "corpus.jsonl"], [root / "queries.jsonl"], judgements]
    found = [next((path for path in paths if path.is_file()), None) for paths in wanted]
    lacks = [
        " or ".join(path.relative_to(root).as_posix() for path in paths)
        for paths, path in zip(wanted, found, strict=True)
        if path is None
    ]
    if lacks:
        others = sorted(path.relative_to(root).as_posix() for path in [*root.glob("qrels/*.tsv"), *root.glob("*.tsv")])
        has = f" (of judgements it has {', '.join(others)}; --qrels-split chooses of qrels/)" if others else ""
        raise ValueError(
            f"'{folder}' is no folder of BEIR, it has no {', no '.join(lacks)}{has}; give the files themselves with "
            "--corpus, --queries and --qrels"
        )
    return CollectionFiles(*map(str, found))


def read_judged(
    queries: str, qrels: str, searched: Collection[str], corpus_ids: Callable[[], Collection[str]]
) -> Judged:
    """Queries are lines of JSON with `_id` and `text`; judgements those of BEIR, tab-separated query, document and
    score, or of TREC, query, a column that is not read, document and score. A line of names may stand before them.

    `searched`: the ids of the documents that are searched; `corpus_ids` gives those of all that the corpus has, and is
    called if others are judged. Raises ValueError, naming file and line, for what is not so, for ids that are unknown,
    and where nothing is judged.
    """
    texts: dict[str, str] = {}
    for place, line in _lines(queries):
        try:
            record = json.loads(line)
            text = record["text"]
            texts[str(record["_id"])] = "" if text is None else normalise(str(text))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{place}: this is no query with _id and text ({error})") from None
    relevant: dict[str, dict[str, int]] = {}
    missed: dict[str, str] = {}
    for place, query, document, score in _judgements(qrels):
        if query not in texts:
            raise ValueError(f"{place}: there is no query '{query}'")
        if document not in searched:
            missed.setdefault(document, place)
        relevant.setdefault(query, {})[document] = score
    known = corpus_ids() if missed else ()
    for document, place in missed.items():
        if document not in known:
            raise ValueError(f"{place}: there is no document '{document}'")
    if not any(texts[query] for query in relevant):
        raise ValueError(f"{qrels} holds no judgement" + (" of a query with text" if relevant else ""))
    return Judged({query: texts[query] for query in relevant}, relevant, frozenset(missed))


def _judgements(qrels: str) -> Iterator[tuple[str, str, str, int]]:
    """Place, query, document and score. Nothing is quoted."""
    for number, (place, line) in enumerate(_lines(qrels)):
        columns = _BEIR.fullmatch(line) or _TREC.fullmatch(line)
        if columns and _INTEGER.fullmatch(columns[3]):
            yield place, columns[1], columns[2], int(columns[3])
        elif number or columns is None:  # else they are the names of the columns
            raise ValueError(
                f"{place}: this is no judgement: query, document, score between tabs, or query, 0, document, score"
            )


def _lines(file: str) -> Iterator[tuple[str, str]]:
    """The place and the text of all that are not blank. They end where the file has a line break, not where Python sees
    one in a JSON string. Raises ValueError for what is not UTF-8."""
    with Path(file).open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            place = f"{file}, line {number}"
            try:
                text = line.decode("utf-8-sig").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise ValueError(f"{place}: not valid UTF-8 at byte {error.start}; convert the file") from None
            if text.strip():
                yield place, text
