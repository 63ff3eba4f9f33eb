"""Training that is killed: a reduced run of experiments/kill_and_resume.py."""

from pathlib import Path

import pytest
from kill_and_resume import trials
from training_runs import Settings, configured


@pytest.mark.slow
def test_a_killed_run_ends_as_if_it_had_not_been(prepared: Path, settings: Settings, tmp_path: Path) -> None:
    """Killed between the renames of a save and of a model, and with half a line in the log."""
    model = settings("document", architecture={"resid_pdrop": 0.1})
    whole = configured(prepared, tmp_path / "whole", model, steps=6, save_every=2, validate_every=3)
    kinds = r"^(rename checkpoints/latest|rename model.safetensors|open metrics.jsonl)$"
    found = list(trials(whole, tmp_path, num_random=0, seed=0, kinds=kinds))
    assert len(found) == 3
    assert [trial for trial in found if trial.differences] == []
