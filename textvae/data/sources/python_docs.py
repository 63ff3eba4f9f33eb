"""The built-in corpus `python-docs`: prose out of the documentation that every Python environment holds.

The language reference (`pydoc_data.topics`), and the docstrings of the standard library and of what textvae
depends on, read with `ast` and never imported. A module, a function, or a class with its methods is one
document; the label is its package. Which
versions are installed decides the text; the order is fixed by names.
"""

from __future__ import annotations

import ast
import sysconfig
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from pydoc_data.topics import topics

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from textvae.data.document import SourceDocument
from textvae.data.sources.prose import prose_paragraphs

NAME = "python-docs"
_PYTHON = "python"
_SKIPPED_FOLDERS = {
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "testing",
    "_vendor",
    "vendor",
    "vendored",
}
_SKIPPED_FOLDERS |= {"idlelib", "lib2to3", "turtledemo", "pydoc_data", "__pycache__"}
# Variations of one another, and half of all the source there is to parse.
_SKIPPED_MODULE = "transformers.models."
_MIN_WORDS = 20


@dataclass(frozen=True)
class _SourceFile:
    package: str
    module: str
    path: Path


def python_docs(num_proc: int = 1) -> Iterator[SourceDocument]:
    """The corpus, in an order that depends on the installed packages alone; `num_proc` processes parse it.

    A paragraph that has been seen before is left out: much is repeated from class to class. Raises ValueError
    if textvae is not installed as a package, since its dependencies are then unknown.
    """
    files = list(_standard_library()) + list(_dependencies("textvae"))
    seen: set[str] = set()
    for topic, text in sorted(topics.items()):
        yield from _document(f"{_PYTHON}/reference/{topic}", _PYTHON, prose_paragraphs(text), seen)
    with ProcessPoolExecutor(num_proc) as pool:
        for file, docstrings in zip(files, pool.map(_read_docstrings, files, chunksize=64), strict=True):
            for name, paragraphs in docstrings:
                yield from _document(f"{file.package}/{name}", file.package, paragraphs, seen)


def _document(name: str, label: str, paragraphs: list[str], seen: set[str]) -> Iterator[SourceDocument]:
    new = []
    for paragraph in paragraphs:
        if paragraph not in seen:
            seen.add(paragraph)
            new.append(paragraph)
    if sum(len(paragraph.split()) for paragraph in new) >= _MIN_WORDS:
        yield SourceDocument(id=name, title=name.rpartition("/")[2], label=label, paragraphs=new)


def _standard_library() -> Iterator[_SourceFile]:
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if not _SKIPPED_FOLDERS.intersection(relative.parts):
            yield _SourceFile(_PYTHON, _module(relative), path)


def _dependencies(root: str) -> Iterator[_SourceFile]:
    """Source files of the installed distributions that `root` needs, directly or not; not its own."""
    found: dict[str, metadata.Distribution] = {}
    waiting = {root}
    while waiting:
        name = waiting.pop()
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            if name == root:
                raise ValueError(
                    f"the source '{NAME}' reads what {root} depends on, but {root} is not installed: "
                    "run `pip install -e .` in its checkout first"
                ) from None
            continue  # a requirement for another platform
        waiting |= set(_required(found[name])) - found.keys()
    for name in sorted(found.keys() - {root}):
        for file in sorted(found[name].files or [], key=str):
            if file.suffix != ".py" or _SKIPPED_FOLDERS.intersection(file.parts):
                continue
            module = _module(Path(file))
            if not module.startswith(_SKIPPED_MODULE):
                yield _SourceFile(name, module, Path(str(file.locate())))


def _required(distribution: metadata.Distribution) -> Iterator[str]:
    for line in distribution.requires or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield canonicalize_name(requirement.name)


def _module(relative: Path) -> str:
    parts = relative.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _read_docstrings(file: _SourceFile) -> list[tuple[str, list[str]]]:
    """Dotted name and prose paragraphs of the file's documents, in the order of the source.

    A file that this version of Python cannot parse (packages ship templates and newer syntax) has none.
    """
    try:
        source = file.path.read_text(encoding="utf-8")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the compiler thinks of other people's code
            tree = ast.parse(source)
    except (OSError, SyntaxError, UnicodeDecodeError, ValueError):
        return []
    documents = []
    for name, docstrings in _docstrings(tree, file.module):
        paragraphs = [paragraph for docstring in docstrings for paragraph in prose_paragraphs(docstring)]
        if paragraphs:
            documents.append((name, paragraphs))
    return documents


def _docstrings(node: ast.Module | ast.ClassDef, name: str) -> Iterator[tuple[str, list[str]]]:
    """Name and docstrings of each document: a module, a function, or a class with its methods."""
    functions = [child for child in node.body if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)]
    of_functions = [(function.name, ast.get_docstring(function) or "") for function in functions]
    if isinstance(node, ast.ClassDef):
        yield name, [ast.get_docstring(node) or "", *(docstring for _, docstring in of_functions)]
    else:
        yield name, [ast.get_docstring(node) or ""]
        yield from ((f"{name}.{function}", [docstring]) for function, docstring in of_functions)
    for child in node.body:
        if isinstance(child, ast.ClassDef):
            yield from _docstrings(child, f"{name}.{child.name}")
