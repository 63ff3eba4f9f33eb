"""What pytest loads first, in the process that deals the tests out to others, too: that one imports nothing more."""

import gc
import multiprocessing.forkserver

import pytest


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("numprocesses", None):
        gc.disable()  # as in `preloaded`
        config.pluginmanager.import_plugin("shared")
        gc.enable()


def pytest_collection_finish(session: pytest.Session) -> None:
    """A process has one server that forks others, and who starts it says what is imported there: `run_scripts`, before
    what is tested does."""
    needing = {"SERVER", "forked", "in_a_process"}
    if any(needing & vars(module).keys() for module in {item.module for item in session.items}):
        multiprocessing.forkserver.ensure_running()
