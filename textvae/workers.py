"""Who does the tasks of a preparation or an embedding: this process, several, or a cluster.

Tasks write what is whole or not there, and give nothing back: it does not matter who does which, nor whether one that
was lost is done twice.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Protocol, TypeVar

from tqdm.auto import tqdm

T = TypeVar("T")


class Workers(Protocol):
    def run(self, do: Callable[[T], None], tasks: Sequence[T], purpose: str, *, alone: bool = False) -> None:
        """Do all the tasks, in any order; the first error that one raises ends it. `do` can be pickled.

        `alone`: it holds a model, of which one machine should not hold several.
        """


class LocalWorkers:
    """`num_proc` processes of this machine; one is this process."""

    def __init__(self, num_proc: int = 1) -> None:
        self.num_proc = num_proc

    def run(self, do: Callable[[T], None], tasks: Sequence[T], purpose: str, *, alone: bool = False) -> None:
        """Raises ChildProcessError, an OSError, when a process is lost."""
        num_proc = min(self.num_proc, len(tasks))
        with tqdm(total=len(tasks), desc=purpose, unit="part", leave=False, disable=None) as bar:
            if alone or num_proc < 2:
                for task in tasks:
                    do(task)
                    bar.update()
                return
            # Forked from a server, which has no threads, and has imported what they need.
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(["textvae.data.prepare.tasks"])
            pool = ProcessPoolExecutor(num_proc, mp_context=context, initializer=end_with_parent)
            try:
                for future in as_completed(_submitted(pool, do, tasks)):
                    future.result()
                    bar.update()
            except BrokenProcessPool:
                raise ChildProcessError(
                    f"a process was lost while {purpose}, killed perhaps for the memory it took: the same command goes "
                    "on where it stood; fewer --num-proc take less"
                ) from None
            finally:
                pool.shutdown(cancel_futures=True)


def _submitted(pool: ProcessPoolExecutor, do: Callable[[T], None], tasks: Sequence[T]) -> list[Future[None]]:
    try:
        return [pool.submit(do, task) for task in tasks]
    except OSError as error:  # a process was lost while the next was being started: its queue is closed
        raise BrokenProcessPool(str(error)) from error


def end_with_parent() -> None:
    """Called in a worker process, which else waits for ever for a parent that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
