"""Training documents straight from a source: every one once an epoch, the same whoever tokenises, taken up anywhere."""

import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, count, islice, takewhile
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from accelerate import Accelerator
from run_scripts import in_a_process, outliving
from test_batch import LAYOUT

from textvae.config import DataConfig
from textvae.data.chunks import CHUNK_DOCUMENTS, ChunkReader, Position
from textvae.data.dataset import load_prepared
from textvae.data.document import SourceDocument
from textvae.data.sources.records import FieldNames
from textvae.data.sources.shards import Shard, ShardedSource, open_shards
from textvae.data.stream import Encoder, Stream, open_stream
from textvae.training.state_file import read_state, write_state


def shards_of(*sizes: int) -> list[Shard]:
    """Shards with so many documents each, called `SHARD:NUMBER`."""

    def read(shard: int, size: int) -> Iterator[SourceDocument]:
        return (SourceDocument(f"{shard}:{number}", text="The boat was late.") for number in range(size))

    return [Shard(str(n), 0, lambda n=n, size=size: read(n, size)) for n, size in enumerate(sizes)]


def epoch_of(reader: ChunkReader, epoch: int) -> list[str]:
    chunks = takewhile(lambda chunk: chunk.documents, reader.chunks(Position(epoch)))
    return [document.id for chunk in chunks for document in chunk.documents]


@pytest.mark.parametrize("num_processes", [1, 2, 3, 5])
@pytest.mark.parametrize("sizes", [(20, 9, 1, 14), (30,), (11, 0, 12)], ids=str)
def test_processes_together_read_every_document_once_an_epoch(sizes: tuple[int, ...], num_processes: int) -> None:
    shards = shards_of(*sizes)
    everything = sorted(document.id for shard in shards for document in shard.read())
    readers = [ChunkReader(shards, 1, process, num_processes) for process in range(num_processes)]
    for epoch in range(2):
        found = [epoch_of(reader, epoch) for reader in readers]
        assert sorted(chain.from_iterable(found)) == everything
        if len(shards) >= num_processes:
            taken = [{name.partition(":")[0] for name in names} for names in found]
            assert sum(map(len, taken)) == len(set().union(*taken)), "a shard is one process's"


def test_epochs_and_seeds_shuffle_the_shards() -> None:
    shards = shards_of(*[1] * 20)
    first = epoch_of(ChunkReader(shards, 1, 0, 1), 0)
    assert epoch_of(ChunkReader(shards, 1, 0, 1), 0) == first
    assert epoch_of(ChunkReader(shards, 1, 0, 1), 1) != first
    assert epoch_of(ChunkReader(shards, 2, 0, 1), 0) != first


def test_reading_goes_on_behind_any_chunk() -> None:
    reader = ChunkReader(shards_of(2 * CHUNK_DOCUMENTS + 1, 3, 0, CHUNK_DOCUMENTS), 1, 0, 1)
    whole = list(islice(reader.chunks(Position()), 16))
    assert {chunk.after.epoch for chunk in whole} == {0, 1, 2}
    for number, chunk in enumerate(whole):
        rest = list(islice(reader.chunks(chunk.after), len(whole) - number - 1))
        assert rest == whole[number + 1 :]


def streamed(prepared: Path, source: Path | str, **options: int) -> Stream:
    batch_tokens, buffer = options.pop("batch_tokens", 100), options.pop("buffer", 5)
    settings = DataConfig(str(prepared), batch_tokens, 60, stream=str(source), stream_buffer=buffer)
    training = load_prepared(prepared, "train")
    found = open_shards(str(source), training.source_options.fields)
    return open_stream(settings, found, training, LAYOUT, Accelerator(cpu=True), **{"steps": 40, "seed": 3, **options})


def ids_of(stream: Stream, first: int = 0, num_workers: int = 0) -> list[list[str]]:
    """Of every step's documents, in order."""
    return [[name for b in part.batches for name in b.ids] for part in stream.batches(first, num_workers)]


def written(folder: Path, *shards: list[dict[str, object]]) -> Path:
    folder.mkdir(exist_ok=True)
    for number, records in enumerate(shards):
        said = "\n".join(map(json.dumps, records))
        (folder / f"{number}.jsonl").write_text(said, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def corpus(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `prepared` was made of, as four Parquet shards; another document in the second has no text."""
    folder = tmp_path_factory.mktemp("shards")
    lines = [json.loads(line) for line in (prepared.parent / "corpus.jsonl").read_text("utf-8").splitlines()]
    lines.insert(9, {"id": "blank", "paragraphs": [" "]})
    for number in range(4):
        table = pyarrow.Table.from_pylist(lines[number * 9 : number * 9 + 9])
        pyarrow.parquet.write_table(table, folder / f"part-{number}.parquet")
    return folder


def test_an_epoch_is_what_prepare_made_of_the_training_split(prepared: Path, corpus: Path) -> None:
    """Every document once, as many tokens, and none whose text validation or test holds, whatever its id; what is set
    aside is counted and named."""
    split = load_prepared(prepared, "train")
    stream = streamed(prepared, corpus)
    names = list(chain.from_iterable(ids_of(stream)))
    assert len(names) > 2 * len(split)
    for epoch in range(2):
        found = names[epoch * len(split) : (epoch + 1) * len(split)]
        assert sorted(found) == sorted(split.column("id"))
        assert found != names[: len(split)] or epoch == 0, "an epoch is shuffled anew"
    told = stream.news()
    assert f"33 documents read, {len(split)} documents kept" in told
    assert f"{split.token_counts.sum():,} tokens" in told
    assert f"{33 - len(split)} documents set aside" in told
    assert "'blank': it holds no sentence" in told
    assert "its text is held out, in validation or test" in told


def test_steps_have_as_many_tokens_as_asked_for(prepared: Path, corpus: Path) -> None:
    longest = int(load_prepared(prepared, "train").token_counts.max())
    total = 0
    for number, part in enumerate(streamed(prepared, corpus, batch_tokens=200).batches(0, 0), start=1):
        assert part.weight == 1
        assert part.global_tokens == sum(batch.num_tokens for batch in part.batches) > 0
        assert all(batch.num_tokens <= 60 or len(batch) == 1 for batch in part.batches)
        total += part.global_tokens
        assert 0 <= total - 200 * number < longest < 200


@pytest.mark.parametrize(("num_workers", "stops"), [(0, (1, 9, 26)), (2, (12,))])
def test_a_stream_goes_on_after_any_step(
    prepared: Path, corpus: Path, tmp_path: Path, num_workers: int, stops: tuple[int, ...]
) -> None:
    """In the middle of a shard and of an epoch, whatever workers had prepared ahead, as if it had not been stopped."""
    uninterrupted = streamed(prepared, corpus)
    whole, told = ids_of(uninterrupted), uninterrupted.news()
    for stop in stops:
        stream = streamed(prepared, corpus)
        began = islice(stream.batches(0, num_workers), stop)
        assert [[name for b in part.batches for name in b.ids] for part in began] == whole[:stop]
        write_state(tmp_path / "state.safetensors", stream.state_dict())
        resumed = streamed(prepared, corpus)
        resumed.load_state_dict(read_state(tmp_path / "state.safetensors"))
        assert ids_of(resumed, stop, num_workers) == whole[stop:]
        assert resumed.news() == told


def test_the_batches_after_a_resume_are_the_same_tensors(prepared: Path, corpus: Path) -> None:
    stream = streamed(prepared, corpus)
    batches = stream.batches(0, 0)
    next(batches)
    resumed = streamed(prepared, corpus)
    resumed.load_state_dict(stream.state_dict())
    assert repr(next(resumed.batches(1, 0))) == repr(next(batches))


def test_memory_does_not_depend_on_the_length_of_a_stream(
    prepared: Path, make_processor: Callable[..., object]
) -> None:
    """One that does not end is read no further than the buffer and a chunk."""
    read: list[int] = []

    def endless() -> Iterator[SourceDocument]:
        for number in count():
            read.append(number)
            yield SourceDocument(str(number), text="The boat was late. Nobody said a word.")

    options = load_prepared(prepared, "train").source_options
    settings = DataConfig(str(prepared), 100, 60, stream="endless", stream_buffer=30)
    source = ShardedSource((Shard("endless", 0, endless),))
    encoder = Encoder(make_processor(), None, ())
    stream = Stream(settings, source, options, encoder, LAYOUT, Accelerator(cpu=True), steps=10, seed=0)
    drawn = sum(len(step) for step in ids_of(stream))
    assert drawn > 30
    assert len(read) <= drawn + 30 + CHUNK_DOCUMENTS


def test_a_document_comes_far_from_its_neighbours_as_the_buffer_is_large(prepared: Path, tmp_path: Path) -> None:
    records = [{"id": f"{number:03}", "text": f"Boat number {number} was late."} for number in range(200)]
    source = written(tmp_path / "shard", records)

    def drawn(buffer: int, seed: int = 0) -> list[int]:
        steps = ids_of(streamed(prepared, source, buffer=buffer, steps=18, seed=seed))
        return list(map(int, chain.from_iterable(steps)))[:200]

    def moved(found: list[int]) -> float:
        return sum(abs(place - number) for place, number in enumerate(found)) / len(found)

    assert moved(drawn(1)) < 12
    assert moved(drawn(200)) > 40
    assert drawn(200) != drawn(200, seed=1)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_what_cannot_be_read_is_named(prepared: Path, tmp_path: Path, num_workers: int) -> None:
    """By the process that reads and by those that tokenise alike, in a line."""
    good = {"text": "The boat was late."}

    def refusal(*records: dict[str, object]) -> str:
        stream = streamed(prepared, written(tmp_path / "shards", list(records)))
        try:
            list(stream.batches(0, num_workers))
        except ValueError as error:
            return str(error)
        raise AssertionError("it was read")

    deep = refusal(good, {"id": "deep", "units": [[["The boat", ["was late."]]]]})
    assert "document 'deep'" in deep
    assert "\n" not in deep
    nothing = refusal({"text": " "}, {"id": "none", "text": None}, {"body": "The boat was late."})
    assert f"'{tmp_path / 'shards'}' holds no document to train on:" in nothing
    assert "set aside 'none': its text is null" in nothing
    assert "0.jsonl, line 3: no field 'text', 'paragraphs' or 'units' among ['body']" in nothing


def test_an_epoch_in_which_a_process_has_nothing_is_no_end(prepared: Path, tmp_path: Path) -> None:
    """Two of three shards are blank, and are all that a process gets in some epochs."""
    said = [[{"id": "said", "text": "The boat was late. Nobody said a word."}], [{"text": " "}], [{"text": " "}]]
    stream = streamed(prepared, written(tmp_path / "shards", *said))
    stream._reader = ChunkReader(stream.source.shards, 0, 1, 2)
    assert len(ids_of(stream)) == 40
    assert stream.epoch > 20


def test_documents_of_one_name_have_noise_of_their_own(prepared: Path, tmp_path: Path) -> None:
    """As where every shard counts from zero."""
    shard = [{"id": str(number), "text": f"Boat {number} was late."} for number in range(12)]
    stream = streamed(prepared, written(tmp_path / "shards", *[shard] * 3))
    steps = list(stream.batches(0, 0))
    for step in steps:
        keys = [key for batch in step.batches for key in batch.document_key.tolist()]
        assert len(set(keys)) == len(keys)
    assert "renamed" not in stream.news()


def test_damaged_lines_are_set_aside_and_named(prepared: Path, tmp_path: Path) -> None:
    """Training that came far is not ended by one; `prepare` refuses it, at once."""
    folder = written(tmp_path / "shards", [{"id": "first", "text": "The boat was late."}])
    with (folder / "0.jsonl").open("ab") as file:
        file.write(b'\n{"id": "cut", "te\n["a list"]\n{"text": "caf\xe9"}\n{"text": 7}\n')
        file.write(b'{"id": "last", "text": "Nobody spoke."}\n')
    stream = streamed(prepared, folder)
    names = {name.partition("~")[0] for name in chain.from_iterable(ids_of(stream))}  # a step has them several times
    assert names == {"first", "last"}
    told = stream.news()
    assert "6 documents read, 2 documents kept" in told
    for line, reason in ((2, "not valid JSON"), (3, "a JSON list"), (4, "not valid UTF-8"), (5, "")):
        assert f"set aside '0:{line}': {folder / '0.jsonl'}, line {line}: {reason}" in told


def abandon_workers(prepared: Path, source: Path, told: Path) -> None:
    """As a process that is killed while its workers have much to give back."""
    parts = streamed(prepared, source).batches(0, 2)
    next(parts)
    workers = [process.pid for process in multiprocessing.active_children()]
    told.write_text(json.dumps(workers), encoding="utf-8")
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)


def test_workers_end_with_a_process_that_is_killed(prepared: Path, tmp_path: Path) -> None:
    source = written(tmp_path / "shards", [{"text": "The boat was late. " * 250}] * 8)
    assert in_a_process(abandon_workers, prepared, source, tmp_path / "told.json") == -signal.SIGKILL
    workers = json.loads((tmp_path / "told.json").read_text(encoding="utf-8"))
    assert len(workers) == 2
    assert not outliving(workers)


def test_sources_that_are_no_stream_are_refused(prepared: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no-such\.jsonl': there is no such file or folder"):
        streamed(prepared, tmp_path / "no-such.jsonl")
    (tmp_path / "corpus").mkdir()
    for split in ("test", "validation"):
        written(tmp_path / "corpus" / split, [{"text": "The boat was late."}])
    with pytest.raises(ValueError, match="has no split 'train' to train on; it has validation, test"):
        streamed(prepared, tmp_path / "corpus")


def test_a_stream_is_read_as_its_sample_was_prepared(prepared: Path, tmp_path: Path) -> None:
    """The field that holds the text, and where long documents are cut."""
    source = written(tmp_path / "shards", [{"id": "a", "body": "The boat was late.\n\nNobody spoke.\n\nIt rained."}])
    usual = load_prepared(prepared, "train")
    options = usual.metadata["options"]
    changed = {**options, "fields": {**options["fields"], "text": "body"}, "max_document_sentences": 1}
    training = replace(usual, metadata={**usual.metadata, "options": changed})
    settings = DataConfig(str(prepared), 5, 60, stream=str(source))
    found = open_shards(str(source), training.source_options.fields)
    stream = open_stream(settings, found, training, LAYOUT, Accelerator(cpu=True), steps=3, seed=0)
    assert sorted(chain.from_iterable(ids_of(stream)))[:3] == ["a#1", "a#2", "a#3"]
    other = open_stream(settings, found, usual, LAYOUT, Accelerator(cpu=True), steps=3, seed=0)
    assert other.fingerprint != stream.fingerprint


def test_streams_are_told_apart_by_their_shards(prepared: Path, corpus: Path, tmp_path: Path) -> None:
    """Wherever they lie."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in corpus.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    own = streamed(prepared, corpus).fingerprint
    assert streamed(prepared, copy).fingerprint == own
    (copy / "part-3.parquet").rename(copy / "part-4.parquet")
    assert streamed(prepared, copy).fingerprint != own


def test_a_hub_data_set_is_streamed_by_its_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = datasets.Dataset.from_dict({"text": [f"Number {n}." for n in range(20)]}).to_iterable_dataset(num_shards=4)
    asked = []

    def load(name: str, configuration: str | None, streaming: bool) -> dict[str, datasets.IterableDataset]:
        asked.append((name, configuration, streaming))
        return {"train": rows, "test": rows}

    monkeypatch.setattr(datasets, "load_dataset", load)
    found = open_shards("name:config", FieldNames())
    assert asked == [("name", "config", True)]
    assert [entry.path for entry in found.passed_over] == ["test"]
    texts = [[document.text for document in shard.read()] for shard in found.shards]
    assert [len(shard) for shard in texts] == [5, 5, 5, 5]
    assert sorted(chain.from_iterable(texts)) == sorted(f"Number {n}." for n in range(20))
    ids = [document.id for shard in found.shards for document in shard.read()]
    assert len(set(ids)) == 20
    assert ids[0] == "name:config/train-00000:0"
