"""Comparing results: counts and names exactly, other numbers to rounding."""

from typing import Any

import pytest


def assert_same_numbers(ours: Any, theirs: Any, rel: float = 1e-5, abs: float | None = None) -> None:
    """Both nested JSON; `rel` and `abs` as of `pytest.approx`."""
    ours, theirs = flat(ours), flat(theirs)
    assert ours.keys() == theirs.keys()
    for path, value in ours.items():
        expected = pytest.approx(value, rel=rel, abs=abs) if isinstance(value, float) else value
        assert theirs[path] == expected, path


def flat(values: Any, path: str = "") -> dict[str, Any]:
    """Nested JSON as {path: value}."""
    if not isinstance(values, dict | list):
        return {path: values}
    members = values.items() if isinstance(values, dict) else enumerate(values)
    return {found: value for key, member in members for found, value in flat(member, f"{path}/{key}").items()}
