"""eval/hashing.py as a user runs it, and its mathematics on bits whose precision is known."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_scripts import refusal, run_script

from textvae.evaluation.hashing import hashing, precision_at, rotation
from textvae.evaluation.probing.examples import ENCODER, Examples

TEXTS = {"sea": "A single boat moved out past the wall.", "shop": "Old Marta had sold rope and lamps for forty years."}


def examples(values: np.ndarray, labels: np.ndarray) -> Examples:
    names = np.arange(len(labels)).astype(str)
    return Examples({"document": values, ENCODER: values}, names, labels, names, 0)


def test_of_documents_that_tie_every_order_counts() -> None:
    """Three of six, two nearer than the rest: the third is any of three, of which two are relevant."""
    distances = np.array([[2.0, 1, 0, 2, 2, 5]])
    is_relevant = np.array([[True, False, True, False, True, True]])
    orders = [np.argsort(distances[0] + 0.1 * np.array(noise)) for noise in itertools.permutations(range(6))]
    expected = np.mean([is_relevant[0, order[:3]].mean() for order in orders])
    assert precision_at(distances, is_relevant, 3) == pytest.approx(expected)
    assert expected == pytest.approx((1 + 2 / 3) / 3)


def test_a_rotation_is_found_again() -> None:
    """Corners of a cube, turned: some rotation puts every one of them back, and its signs lose nothing."""
    random = np.random.default_rng(0)
    turned = np.linalg.qr(random.normal(size=(4, 4)))[0]
    corners = random.choice([-1.0, 1.0], size=(400, 4))
    found = rotation(corners @ turned, seed=0)
    np.testing.assert_allclose(found @ found.T, np.eye(4), atol=1e-12)
    back = corners @ turned @ found
    np.testing.assert_allclose(np.abs(back), 1, atol=1e-6)


def test_labels_that_bits_tell_and_labels_that_they_do_not() -> None:
    """Two labels of 150 documents on either side of zero: one bit tells them; dealt out at random, none does."""
    random = np.random.default_rng(0)
    labels = np.repeat(["left", "right"], 150)
    values = random.normal(size=(300, 3)) + np.where(labels == "left", -6.0, 6.0)[:, None]
    told = hashing(examples(values, labels), examples(values, labels), [1, 3], seed=0)
    assert (told.classes, told.chance) == (2, pytest.approx(0.5))
    assert set(told.systems) == {
        name + code for name in ("document", ENCODER) for code in ("", "_1_median", "_1_itq", "_3_median", "_3_itq")
    }
    # One bit leaves all 150 of a label equally near; a median would cut between the labels, for they are as many.
    assert all(score.precision == 1 for name, score in told.systems.items() if "_3_median" not in name)
    assert told.systems["document"].bits is None
    assert told.systems["document_3_itq"].bits == 3
    dealt = random.permutation(labels)
    blind = hashing(examples(values, dealt), examples(values, dealt), [1, 3], seed=0)
    assert all(abs(score.precision - 0.5) < 0.05 for score in blind.systems.values())


def corpus(folder: Path, *labels: str | None) -> str:
    folder.mkdir()
    for split, repeats in (("train", 60), ("test", 2)):
        records = [{"text": TEXTS[label or "sea"]} | ({"label": label} if label else {}) for label in labels * repeats]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    return str(folder)


def test_the_script_reports_what_it_searched(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, out = corpus(tmp_path / "data", "sea", "shop", None), tmp_path / "hashing.json"
    script = ["eval/hashing.py", "--model", run, "--data", data, "--out", str(out), "--bits", "1"]
    assert run_script(*script) == 0
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    assert (found["documents"], found["queries"], found["classes"], found["chance"]) == (120, 4, 2, 0.5)
    # Two texts: of the 100 nearest, all 60 of the same, and 40 of the other.
    assert found["systems"]["document"]["precision"] == pytest.approx(0.6)
    assert capsys.readouterr().out.splitlines()[-1] == "left out: 62 documents without a label"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bits", "0"], "--bits is 0; it must be 1 or more"),
        (["--bits", "512"], "--bits is 512, and document has"),
        (["--split", "test"], "precision is of the 100 nearest, and there are 4 documents"),
        (["--queries", "validation"], "validation"),
        (["--label", "topic"], "no document has a field 'topic'"),
    ],
    ids=["no bits", "more bits than dimensions", "few documents", "no such split", "no such label"],
)
def test_what_cannot_be_hashed_is_said_in_a_line(
    run: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    make_run: Callable[..., str],
    arguments: list[str],
    message: str,
) -> None:
    data = ["--model", run, "--data", corpus(tmp_path / "data", "sea", "shop")]
    assert message in refusal(capfd, tmp_path / "hashing.json", "eval/hashing.py", *data, *arguments)
