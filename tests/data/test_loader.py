import json
import multiprocessing
import os
import resource
import signal
import time
import tracemalloc
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from run_scripts import in_a_process, outliving
from test_batch import LAYOUT
from torch.utils.data import Dataset

from textvae.data.dataset import Documents
from textvae.data.document import EncodedDocument
from textvae.data.loader import (
    TrainingSteps,
    evaluation_groups,
    gather_in_order,
    losing_no_worker,
    prepared_ahead,
    walk,
)
from textvae.data.plan import BatchPlan, borders, fill, share
from textvae.data.transfer import from_bytes, to_bytes

COUNTS = np.random.default_rng(0).integers(1, 60, 40)
BUDGET = 100
CPU = torch.device("cpu")


def epoch_length(plan: BatchPlan) -> int:
    return next(step for step in range(1000) if plan.epoch(step) == 1)


def test_an_epoch_is_every_document_once_in_even_batches() -> None:
    plan = BatchPlan(COUNTS, BUDGET, seed=1)
    steps = [plan.documents(step) for step in range(epoch_length(plan))]
    assert sorted(np.concatenate(steps).tolist()) == list(range(len(COUNTS)))
    # No border is more than half a document off, however many came before.
    ends = np.cumsum([COUNTS[step].sum() for step in steps[:-1]])
    nearest = BUDGET * np.arange(1, len(steps))
    assert (np.abs(ends - nearest) <= COUNTS.max() / 2).all()


def test_a_short_document_between_long_ones_is_no_batch_of_its_own() -> None:
    assert borders(np.arange(4), np.array([100, 5, 98, 97]), 100).tolist() == [0, 1, 3, 4]


def test_a_run_that_was_begun_goes_on_with_the_same_batches() -> None:
    """The numbers that all versions have shuffled by."""
    plan = BatchPlan(np.array([3, 1, 4, 1, 5, 9, 2, 6]), 10, seed=7)
    assert [plan.documents(step).tolist() for step in range(8)] == [
        [0, 6, 7],
        [2, 4],
        [5, 1],
        [3],
        [6, 3, 1, 0, 2],
        [4, 7],
        [5],
        [6, 0, 2, 3],
    ]


def test_a_plan_keeps_some_bytes_of_a_document_however_many_epochs() -> None:
    counts = np.full(100_000, 20)
    tracemalloc.start()
    plan = BatchPlan(counts, 40, seed=0)
    assert plan.epoch(8 * 50_000) == 8
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 20 * len(counts)


def test_the_plan_depends_on_seed_and_step_alone() -> None:
    forwards, later = BatchPlan(COUNTS, BUDGET, seed=1), BatchPlan(COUNTS, BUDGET, seed=1)
    steps = range(3 * epoch_length(forwards))
    first = [forwards.documents(step).tolist() for step in steps]
    assert [later.documents(step).tolist() for step in reversed(steps)][::-1] == first
    other = BatchPlan(COUNTS, BUDGET, seed=2)
    assert [other.documents(step).tolist() for step in steps] != first
    assert first[0] != first[epoch_length(forwards)], "the second epoch must be shuffled anew"


def test_a_document_over_the_budget_is_a_batch_of_its_own() -> None:
    parts = [part.tolist() for part in fill(np.arange(4), np.array([5, 500, 5, 5]), 10)]
    assert parts == [[0], [1], [2, 3]]


@pytest.mark.parametrize("num_processes", [1, 2, 3, 7])
def test_a_share_is_a_balanced_partition(num_processes: int) -> None:
    documents = np.random.default_rng(3).permutation(len(COUNTS))[:12]
    parts = share(documents, COUNTS, num_processes)
    assert sorted(np.concatenate(parts).tolist()) == sorted(documents.tolist())
    loads = [int(COUNTS[part].sum()) for part in parts]
    assert max(loads) - min(loads) <= COUNTS[documents].max()
    assert [part.tolist() for part in share(documents[::-1], COUNTS, num_processes)] == [p.tolist() for p in parts]


def steps_of(process: int, num_processes: int, micro: int = 10_000, batch_tokens: int = 30) -> TrainingSteps:
    members = tiny.documents()
    counts = np.array([document.num_tokens for document in members])
    plan = BatchPlan(counts, batch_tokens, seed=0)
    return TrainingSteps(
        members.__getitem__,
        plan,
        LAYOUT,
        steps=6,
        micro_batch_tokens=micro,
        process=process,
        num_processes=num_processes,
    )


@pytest.mark.parametrize("micro", [1, 15, 10_000])
@pytest.mark.parametrize("num_processes", [1, 2, 5])
def test_processes_and_micro_batches_together_make_the_global_batch(num_processes: int, micro: int) -> None:
    for step in range(6):
        whole = steps_of(0, 1)[step]
        parts = [steps_of(process, num_processes, micro)[step] for process in range(num_processes)]
        assert all(part.batches for part in parts), "every process needs a backward pass"
        assert {part.global_tokens for part in parts} == {whole.global_tokens}
        counted = [batch for part in parts for batch in part.batches if part.weight]
        assert sum(batch.num_tokens for batch in counted) == whole.global_tokens
        names = [name for batch in counted for name in batch.ids]
        assert sorted(names) == sorted(name for batch in whole.batches for name in batch.ids)
        if micro == 1:
            assert all(len(batch) == 1 for batch in counted)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_loader_starts_anywhere(num_workers: int) -> None:
    data = steps_of(0, 1)
    found = [[batch.ids for batch in part.batches] for part in data.batches(2, num_workers)]
    assert found == [[batch.ids for batch in data[step].batches] for step in range(2, 6)]


def take_every_step(micro_batch_tokens: int, files: int) -> None:
    """Where only so many `files` more may be opened."""
    multiprocessing.set_start_method("fork", force=True)
    members = [tiny.document(f"doc-{number}", [1], [2]) for number in range(60)]
    counts = np.array([member.num_tokens for member in members])
    steps = TrainingSteps(
        members.__getitem__,
        BatchPlan(counts, 200, seed=0),
        LAYOUT,
        steps=6,
        micro_batch_tokens=micro_batch_tokens,
        process=0,
        num_processes=1,
    )
    limit = len(os.listdir("/proc/self/fd")) + files
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    with losing_no_worker("raise `ulimit -n`"):
        for step, part in enumerate(steps.batches(0, 1)):
            assert repr(part) == repr(steps[step])


def test_a_step_of_many_micro_batches_takes_few_open_files() -> None:
    """A file for each of its tensors would be thousands."""
    assert in_a_process(take_every_step, 1, 40) == 0


@pytest.mark.parametrize("files", range(5, 11))
def test_no_limit_of_open_files_keeps_training_waiting(files: int) -> None:
    """It is an error, or goes well."""
    in_a_process(take_every_step, 1000, files)


def test_what_cannot_be_sent_is_an_error() -> None:
    class Unsendable(Dataset[object]):
        def __getitem__(self, index: int) -> object:
            return lambda: index

    lost = pytest.raises(ChildProcessError, match=r"lost \(DataLoader worker .* unexpectedly.*\): do it again")
    with lost, losing_no_worker("do it again"):
        next(iter(prepared_ahead(Unsendable(), range(3), 1)))


def abandon_workers(told: Path) -> None:
    """As a process that is killed while its workers read what takes long."""
    multiprocessing.set_start_method("fork", force=True)

    def read(number: int) -> EncodedDocument:
        if number != first:
            time.sleep(100)
        return tiny.documents()[number]

    steps = steps_of(0, 1, batch_tokens=1)
    first = int(steps.plan.documents(0)[0])
    steps.read = read
    parts = steps.batches(0, 2)
    next(parts)
    told.write_text(json.dumps([process.pid for process in multiprocessing.active_children()]), encoding="utf-8")
    os.kill(os.getpid(), signal.SIGKILL)


def test_workers_end_with_a_process_that_is_killed(tmp_path: Path) -> None:
    assert in_a_process(abandon_workers, tmp_path / "told.json") == -signal.SIGKILL
    workers = json.loads((tmp_path / "told.json").read_text(encoding="utf-8"))
    assert len(workers) == 2
    assert not outliving(workers)


def test_a_step_goes_and_comes_in_one_tensor() -> None:
    """Whatever its tensors are of, and where nothing is in them."""
    part = steps_of(0, 1)[0]
    others = [
        torch.tensor(2.5, dtype=torch.float64),
        torch.zeros(0, 3),
        torch.tensor([True, False, True]),
        torch.ones(3, 4).T,
    ]
    sent = to_bytes((part, others))
    assert (sent.dtype, sent.ndim) == (torch.uint8, 1)
    came, found = from_bytes(sent)
    assert repr(came) == repr(part)
    assert came.batches[0].tokens.untyped_storage().data_ptr() == sent.untyped_storage().data_ptr()
    for ours, theirs in zip(others, found, strict=True):
        assert ours.dtype is theirs.dtype
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("num_processes", [1, 2, 3, 50])
def test_evaluation_takes_every_document_in_the_same_group_for_any_number_of_processes(
    num_processes: int,
) -> None:
    whole = evaluation_groups(COUNTS, BUDGET)
    assert len(whole) > 1
    assert sorted(chain.from_iterable(whole)) == list(range(len(COUNTS)))
    shares = [
        evaluation_groups(COUNTS, BUDGET, process=process, num_processes=num_processes)
        for process in range(num_processes)
    ]
    assert sorted(chain.from_iterable(shares)) == sorted(whole)
    groups = [COUNTS[group].tolist() for share in shares for group in share]
    assert all(sum(group) <= BUDGET for group in groups)
    assert all(group == sorted(group) for group in groups)
    loads = [sum(COUNTS[group].sum() for group in share) for share in shares]
    assert max(loads) - min(loads) <= 2 * BUDGET
    if num_processes == 50:
        assert [] in shares, "more processes than groups leave some idle"


@pytest.mark.parametrize("workers", [0, 3])
def test_the_walk_gives_each_document_with_its_row_and_its_place_in_a_batch(workers: int) -> None:
    members = [tiny.document(f"doc-{number}", [2], [1, number % 3 + 1]) for number in range(17)]
    documents = Documents.of(members)
    found = list(walk(documents, LAYOUT, CPU, batch_tokens=40, workers=workers))
    assert len(found) > 2
    assert [group.rows for group in found] == evaluation_groups(documents.token_counts, 40)
    for group in found:
        assert [member.id for member in group.members] == [documents.ids[row] for row in group.rows]
        assert list(group.batch.ids) == [documents.ids[row] for row in group.rows]
    named = ((row, name) for group in found for row, name in zip(group.rows, group.batch.ids, strict=True))
    assert gather_in_order(named) == list(documents.ids)


def test_workers_read_ahead_but_not_the_whole_corpus() -> None:
    members = [tiny.document(f"doc-{number}", [1], [1]) for number in range(20)]
    read: list[int] = []
    documents = replace(Documents.of(members), read=lambda row: read.append(row) or members[row])
    groups = walk(documents, LAYOUT, CPU, batch_tokens=1, workers=3)
    next(groups)
    time.sleep(0.2)
    # Three wait, and one is being taken.
    assert len(read) <= 4
    assert len(list(groups)) == 19
    assert sorted(read) == list(range(20))


def test_what_a_worker_cannot_read_is_said_where_the_walk_is() -> None:
    def unreadable(row: int) -> EncodedDocument:
        raise ValueError(f"row {row} is damaged")

    documents = replace(Documents.of(tiny.documents()), read=unreadable)
    with pytest.raises(ValueError, match="row 1 is damaged"):
        list(walk(documents, LAYOUT, CPU, batch_tokens=1, workers=2))


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(ValueError, match="no document"):
        BatchPlan(np.array([], dtype=np.int64), 10, 0)
