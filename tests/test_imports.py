"""The import rules of the design, read from the sources."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "textvae").rglob("*.py"))
OUTSIDE = {"eval", "data_prep", "train", "tests"}
FORBIDDEN = {
    # module (or folder of modules) -> what it must not import
    "textvae.config": ("textvae",),
    "textvae.pretrained": ("textvae",),
    "textvae.data": ("textvae.model", "textvae.objective", "textvae.training", "textvae.text_vae"),
    "textvae.model": ("textvae.objective", "textvae.training", "textvae.text_vae", "textvae.checkpoint"),
    "textvae.model.gaussian": ("textvae",),
    "textvae.model.level": tuple(f"textvae.model.{name}" for name in ("encoder", "decoder", "hierarchy", "vae")),
    "textvae.model.hierarchy": ("textvae.model.encoder", "textvae.model.decoder", "textvae.model.vae"),
    "textvae.model.encoder": ("textvae.model.hierarchy", "textvae.model.decoder", "textvae.model.vae"),
    "textvae.model.decoder": ("textvae.model.hierarchy", "textvae.model.encoder", "textvae.model.vae"),
    "textvae.schedules": ("textvae.model", "textvae.data", "textvae.objective"),
    "textvae.objective": ("textvae.training", "textvae.checkpoint", "textvae.text_vae", "textvae.likelihood"),
    "textvae.likelihood": ("textvae.training",),
    "textvae.diagnostics": ("textvae.training",),
    "textvae.generation": ("textvae.training", "textvae.objective"),
    "textvae.planning": ("textvae.training", "textvae.objective"),
    "textvae.embedding": ("textvae.training", "textvae.objective"),
}  # fmt: skip


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
        if is_within(name, "textvae.model") and reads_data and not is_within(imported, "textvae.data.batch"):
            found.append(f"{name} imports {imported}; of data, model takes batch alone")
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
        ("textvae.model.vae", "from textvae.objective import Objective"),
        ("textvae.model.vae", "import textvae.objective"),
        ("textvae.model.vae", "from textvae import objective"),
        ("textvae.model.level", "def f():\n    from textvae.model.decoder import Decoder"),
        ("textvae.model.encoder", "from textvae.data.loading import fill"),
        ("textvae.model.encoder", "from textvae.data import loading"),
        ("textvae.cli", "from eval.perplexity import main"),
        ("textvae.cli", "import train"),
        ("textvae.data.batch", "from textvae.model.vae import DocumentVAE"),
        ("textvae.data.batch", "from .document import EncodedDocument"),
        ("textvae.generation", "import textvae.training as t"),
    ],
)
def test_the_rules_can_be_broken(name: str, source: str) -> None:
    assert violations(name, source)


def test_every_rule_is_about_modules_that_exist() -> None:
    modules = {module_name(path) for path in MODULES}
    names = modules | {name.rpartition(".")[0] for name in modules}
    for module, banned in FORBIDDEN.items():
        assert {module, *banned} <= names
