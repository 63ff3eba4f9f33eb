"""Which files of a folder are a corpus, to which splits they belong, and what is passed over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePath

SPLITS = ("train", "validation", "test")
COMPRESSED = (".xz", ".gz", ".bz2", ".zst")
KINDS = ".txt, .jsonl, .json (also .xz, .gz, .bz2, .zst) or .parquet"
_SUFFIX_KINDS = {".txt": "text", ".jsonl": "json", ".json": "json", ".parquet": "parquet"}
# What macOS writes into archives beside the files themselves.
_RESOURCE_FORKS = "__MACOSX"
_SHOWN = 5


@dataclass(frozen=True)
class PassedOver:
    """A file, or a split, that is not read."""

    path: str
    reason: str


@dataclass(frozen=True)
class SourceFiles:
    splits: dict[str, list[Path]]
    """The files of every split, in order of their names."""
    passed_over: tuple[PassedOver, ...]


def file_kind(path: PurePath) -> str | None:
    """`text`, `json` or `parquet` by the suffix, in capitals or not, compressed or not; None for any other."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    compressed = bool(suffixes) and suffixes[-1] in COMPRESSED
    if compressed:
        suffixes.pop()
    kind = _SUFFIX_KINDS.get(suffixes[-1]) if suffixes else None
    return None if compressed and kind == "parquet" else kind


def find_files(source: str | Path) -> SourceFiles:
    """The corpus files at `source` by split; all of them are `train` if none names one.

    A split is named by a subfolder (`test/a.txt`) or, other than for text files, which are documents, by the
    file (`test.jsonl`, `test-00001.parquet`). Hidden files, files of no known kind, and the queries and judgements
    of a retrieval collection (BEIR's layout) are passed over. Raises ValueError if there are no files that can be
    read, or if some name a split and some do not.
    """
    source = Path(source)
    if source.is_file():
        if file_kind(source) is None:
            raise ValueError(f"'{source}' is of no known kind: '{source.suffix}' is not among {KINDS}")
        return SourceFiles({"train": [source]}, ())
    found = sorted(path.relative_to(source) for path in source.rglob("*") if path.is_file())
    collections = _retrieval_collections(found)
    reasons = {path: _reason_against(path, collections) for path in found}
    passed_over = tuple(PassedOver(path.as_posix(), reason) for path, reason in reasons.items() if reason)
    files = [path for path, reason in reasons.items() if reason is None]
    if not files:
        but = f"; {listed(passed_over)}" if passed_over else ""
        raise ValueError(f"'{source}' holds no {KINDS} file{but}")
    by_split: dict[str | None, list[Path]] = {}
    depth = _common_depth(files)
    for path in files:
        by_split.setdefault(_split_of(path, depth), []).append(source / path)
    unnamed = by_split.pop(None, [])
    if unnamed and by_split:
        raise ValueError(
            f"'{source}' mixes files that name a split ({', '.join(map(str, by_split))}) with others, such "
            f"as '{unnamed[0].name}': move those away, or put every file into train/, validation/ or test/"
        )
    splits = {"train": unnamed} if unnamed else {split: by_split[split] for split in SPLITS if split in by_split}
    return SourceFiles(splits, passed_over)


def listed(passed_over: Sequence[PassedOver]) -> str:
    """What was passed over, counted and named, in a line."""
    parts = []
    for reason, group in groupby(sorted(passed_over, key=lambda entry: entry.reason), lambda entry: entry.reason):
        paths = [entry.path for entry in group]
        names = ", ".join(f"'{path}'" for path in paths[:_SHOWN]) + (", ..." if len(paths) > _SHOWN else "")
        parts.append(f"{len(paths):,} {reason} ({names})")
    return f"passed over {', '.join(parts)}"


def _retrieval_collections(paths: Sequence[PurePath]) -> set[PurePath]:
    """Folders in BEIR's layout: a corpus beside its queries or the judgements of their relevance."""
    corpora = {path.parent for path in paths if _stem(path) == "corpus"}
    companions = {path.parent for path in paths if _stem(path) == "queries"}
    companions |= {path.parent.parent for path in paths if path.parent.name == "qrels"}
    return corpora & companions


def _reason_against(path: PurePath, collections: set[PurePath]) -> str | None:
    if any(part.startswith(".") or part == _RESOURCE_FORKS for part in path.parts):
        return "hidden"
    if path.parent in collections and _stem(path) == "queries":
        return "with queries, which are no documents"
    if path.parent.name == "qrels" and path.parent.parent in collections:
        return "with judgements of relevance, which are no documents"
    return None if file_kind(path) else "of no known kind"


def _stem(path: PurePath) -> str:
    return path.name.split(".")[0].lower()


def _common_depth(files: Sequence[PurePath]) -> int:
    """How many folders all the files lie in that do not name a split, such as `data/` of a Hub repository."""
    depth = 0
    while all(len(path.parts) > depth + 1 for path in files):
        names = {path.parts[depth] for path in files}
        if len(names) > 1 or _split_named(names.pop()):
            break
        depth += 1
    return depth


def _split_of(path: PurePath, depth: int) -> str | None:
    is_text_file = len(path.parts) == depth + 1 and file_kind(path) == "text"
    return None if is_text_file else _split_named(path.parts[depth])


def _split_named(name: str) -> str | None:
    for split in SPLITS:
        if name.lower().startswith(split) and not name[len(split) : len(split) + 1].isalpha():
            return split
    return None
