"""A small run of `experiments/hostile_documents.py`: nothing lost, nothing unaccounted for, no crash."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "experiments" / "hostile_documents.py"


@pytest.fixture(scope="module")
def hostile() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hostile_documents", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_hostile_documents_are_read_scored_and_embedded_without_loss(hostile: ModuleType) -> None:
    outcome = hostile.check(documents=40, number=7, longest=40, batch=40)
    assert outcome.failures == ()
    assert outcome.counts["documents"] >= 40
    assert outcome.counts["documents scored"] > 20
