"""The import rules of the design, read from the sources."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "textvae").rglob("*.py"))
OUTSIDE = {"eval", "data_prep", "train", "tests"}
CONSUMERS = ("textvae.writing", "textvae.search", "textvae.evaluation", "textvae.cli")
TENSORS = ("textvae.data.batch", "textvae.data.packing")
FORBIDDEN = {
    # module (or folder of modules) -> what it must not import
    "textvae.config": ("textvae",),
    "textvae.gguf_files": ("textvae",),
    "textvae.devices": ("textvae",),
    "textvae.pretrained": ("textvae.config", "textvae.data", "textvae.model", "textvae.training", "textvae.text_vae"),
    "textvae.data": ("textvae.model", "textvae.training", "textvae.text_vae", "textvae.build", *CONSUMERS),
    "textvae.model": ("textvae.training", "textvae.text_vae", "textvae.runs", "textvae.build", *CONSUMERS),
    "textvae.model.gaussian": ("textvae",),
    "textvae.model.level": tuple(f"textvae.model.{name}" for name in ("encoder", "decoder", "hierarchy", "vae")),
    "textvae.model.hierarchy": ("textvae.model.encoder", "textvae.model.decoder", "textvae.model.vae"),
    "textvae.model.encoder": ("textvae.model.hierarchy", "textvae.model.decoder", "textvae.model.vae"),
    "textvae.model.decoder": ("textvae.model.hierarchy", "textvae.model.encoder", "textvae.model.vae"),
    "textvae.training": CONSUMERS,
    "textvae.training.schedules": ("textvae.model", "textvae.data", "textvae.training.objective"),
    "textvae.training.objective": ("textvae.training.loop", "textvae.runs", "textvae.text_vae"),
    "textvae.writing": ("textvae.training", "textvae.search", "textvae.evaluation", "textvae.cli"),
    "textvae.search": ("textvae.training", "textvae.writing", "textvae.evaluation", "textvae.cli"),
    "textvae.evaluation": ("textvae.training.loop", "textvae.cli"),
}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source: str) -> Iterator[str]:
    """Full names of everything that a source imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield "." * node.level + (node.module or "")
            else:
                yield node.module or ""
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def violations(name: str, source: str) -> list[str]:
    found = []
    for imported in imports(source):
        if imported.startswith("."):
            found.append(f"{name} imports {imported} relatively")
        if imported.split(".")[0] in OUTSIDE:
            found.append(f"{name} imports {imported}, which an installed wheel does not have")
        reads_data = is_within(imported, "textvae.data") and imported != "textvae.data"
        tensors = any(is_within(imported, module) for module in TENSORS)
        if is_within(name, "textvae.model") and reads_data and not tensors:
            found.append(f"{name} imports {imported}; of data, model takes batch and packing alone")
        for module, banned in FORBIDDEN.items():
            if is_within(name, module):
                found.extend(f"{name} imports {imported}" for b in banned if is_within(imported, b))
    return found


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_follow_the_design(path: Path) -> None:
    assert violations(module_name(path), path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("textvae.config", "from textvae.data import batch"),
        ("textvae.model.vae", "from textvae.training.objective import Objective"),
        ("textvae.model.vae", "import textvae.training.objective"),
        ("textvae.model.vae", "from textvae.training import objective"),
        ("textvae.model.level", "def f():\n    from textvae.model.decoder import Decoder"),
        ("textvae.model.encoder", "from textvae.data.loader import fill"),
        ("textvae.model.encoder", "from textvae.data import loader"),
        ("textvae.cli", "from eval.perplexity import main"),
        ("textvae.cli", "import train"),
        ("textvae.data.batch", "from textvae.model.vae import DocumentVAE"),
        ("textvae.data.batch", "from .document import EncodedDocument"),
        ("textvae.writing.decode", "import textvae.training.loop as t"),
    ],
)
def test_the_rules_can_be_broken(name: str, source: str) -> None:
    assert violations(name, source)


def test_what_is_no_dependency_is_imported_by_what_is_for_it_alone() -> None:
    for library, allowed in (("sentence_transformers", "search.sentence_module"), ("mteb", "evaluation.mteb_models")):
        named = {path for path in MODULES if any(is_within(i, library) for i in imports(path.read_text("utf-8")))}
        assert {module_name(path) for path in named} == {f"textvae.{allowed}"}


def test_every_rule_is_about_modules_that_exist() -> None:
    modules = {module_name(path) for path in MODULES}
    names = modules | {name.rpartition(".")[0] for name in modules}
    for module, banned in FORBIDDEN.items():
        assert {module, *banned} <= names
