"""Tasks on a Ray cluster (`pip install 'textvae[ray]'`), whose machines see the same files."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, TypeVar

T = TypeVar("T")
_BLOCKS = 2000
"""At most: a task of Ray's does one task, or several where there are more than these."""
_RETRIES = 3
"""Ray's own number of them; its data sets would do a task again for ever that is the end of every worker."""


class RayWorkers:
    """The cluster at `address`: "auto" for the one that runs here or is named in RAY_ADDRESS, "local" for this machine
    alone, or HOST:PORT. Source, model and output must have the same paths on all its machines, which have textvae
    installed.

    A task whose worker or machine is lost is done again elsewhere, `_RETRIES` times; it leaves nothing half done.
    """

    def __init__(self, address: str) -> None:
        """Raises ValueError where Ray is not installed, or there is no such cluster."""
        try:
            import ray
            import ray.data
        except ImportError:
            raise ValueError("--ray needs Ray: pip install 'textvae[ray]'") from None
        try:
            ray.init(address=address, ignore_reinit_error=True, log_to_driver=False)
        except ConnectionError as error:
            raise ValueError(
                f"--ray {address}: there is no such cluster ({error}); start one with `ray start`"
            ) from None

    def run(self, do: Callable[[T], None], tasks: Sequence[T], purpose: str, *, alone: bool = False) -> None:
        """Where the cluster has GPUs, a task with a model (`alone`) has one of its own. Raises the first error of a
        task, and ChildProcessError, an OSError, when one was lost every time."""
        import ray
        from ray.exceptions import RayError, UserCodeException

        if not tasks:
            return
        given = [{"task": pickle.dumps(task)} for task in tasks]
        rows = ray.data.from_items(given, override_num_blocks=min(len(given), _BLOCKS))
        gpus = 1 if alone and ray.cluster_resources().get("GPU") else None
        called = {"do": ray.cloudpickle.dumps(do), "folder": os.getcwd()}
        try:
            for row in rows.map(_done, fn_kwargs=called, num_gpus=gpus, max_retries=_RETRIES).iter_rows():
                if row["error"]:
                    raise pickle.loads(row["error"])
        except RayError as error:
            if isinstance(error, UserCodeException):  # a defect of the task
                raise
            reason = next(filter(None, str(error).splitlines()), type(error).__name__)
            raise ChildProcessError(
                f"the cluster has lost a task again and again while {purpose} ({reason}): `ray status` says how it is; "
                "the same command goes on where it stood"
            ) from None


def _done(row: dict[str, bytes], do: bytes, folder: str) -> dict[str, bytes]:
    """Does the task of the row where it is called, and says what error it met."""
    os.chdir(folder)  # relative paths are those of the command
    try:
        _unpickled(do)(pickle.loads(row["task"]))
    except (ValueError, OSError) as error:
        return {"error": pickle.dumps(error)}
    return {"error": b""}


@lru_cache(maxsize=1)
def _unpickled(do: bytes) -> Callable[[Any], None]:
    """Once for all tasks of a process: it may hold a model, or a corpus."""
    return pickle.loads(do)
