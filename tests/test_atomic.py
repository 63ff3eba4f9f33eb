"""Files that are whole or not there, after a loss of power, too."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from textvae.atomic import publish, remove, whole_folder, write_text


def new_file(folder: Path) -> None:
    write_text(folder / "file", "new")


def new_folder(folder: Path) -> None:
    with whole_folder(folder / "folder") as aside:
        (aside / "below").mkdir()
        (aside / "below" / "file").write_text("new")


def new_files(folder: Path) -> None:
    (folder / "aside").mkdir()
    for name in ("one", "other"):
        (folder / "aside" / name).write_text("new")
    publish(folder / "aside", folder, last="one")


def no_folder(folder: Path) -> None:
    (folder / "folder").mkdir()
    remove(folder / "folder")


@pytest.mark.parametrize("write", [new_file, new_folder, new_files, no_folder])
def test_a_new_name_is_on_the_disk_before_anything_follows(
    write: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what it names was, before."""
    events: list[tuple[str, Path]] = []
    fsync, replace = os.fsync, os.replace

    def syncing(descriptor: int) -> None:
        events.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}"))))
        fsync(descriptor)

    def replacing(source: Path, target: Path) -> None:
        held = [path for path in (source, *source.rglob("*")) if source.is_file() or any(source.iterdir())]
        assert [path for path in held if ("sync", path) not in events] == []
        replace(source, target)
        events.append(("rename", target))

    monkeypatch.setattr(os, "fsync", syncing)
    monkeypatch.setattr(os, "replace", replacing)
    write(tmp_path)
    renames = [number for number, (kind, _) in enumerate(events) if kind == "rename"]
    assert renames
    for number in renames:
        assert events[number + 1] == ("sync", tmp_path)
