"""One writer of a folder at a time: what was thought to be dead, such as a process whose launcher was killed, may still
write.

The lock is on the folder itself (flock): it is gone when its holder is, however that ended, and nothing stays to be
cleaned up.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import gather_object

logger = logging.getLogger("textvae")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Raises ValueError where another process writes to `folder`."""
    with _opened(folder) as descriptor:
        if not _alone(descriptor):
            raise ValueError(_refusal(folder))
        yield


@contextmanager
def locked_together(folder: Path, process: PartialState) -> Iterator[None]:
    """Of several processes that write together, all hold it: one that outlives the others keeps a next run out.

    Raises ValueError in all of them where another process writes to `folder`.
    """
    with _opened(folder) as descriptor:
        alone = not process.is_main_process or _alone(descriptor)
        if alone and process.is_main_process:
            _share(descriptor)
        if not all(gather_object([alone])):
            raise ValueError(_refusal(folder))
        _share(descriptor)
        yield


@contextmanager
def locked_beside(folder: Path) -> Iterator[None]:
    """For a worker of a process that has locked `folder`: should that process end before, the worker keeps others
    out."""
    with _opened(folder) as descriptor:
        _share(descriptor)
        yield


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _alone(descriptor: int) -> bool:
    """Whether nobody else holds the lock; it is held then."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        logger.warning("%s: the folder cannot be locked, see to it that one command at a time writes to it", error)
    return True


def _share(descriptor: int) -> None:
    with suppress(OSError):  # of a file system without locks, of which `_alone` has told
        fcntl.flock(descriptor, fcntl.LOCK_SH)


def _refusal(folder: Path) -> str:
    return f"another process is writing to '{folder}': wait until it has ended, or end it"
