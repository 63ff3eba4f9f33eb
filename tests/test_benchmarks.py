"""Benchmarks measure every part of the work, as a table and as a file."""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from run_scripts import ROOT, run_script

from textvae.cli.main import main

TINY = tuple(
    f"model.decoder.architecture.{size}"
    for size in ("num_hidden_layers=1", "hidden_size=16", "intermediate_size=32", "num_attention_heads=2")
)

PEER = "sentence-transformers"
STAND_IN = """
import json, sys
from pathlib import Path
from transformers import AutoModelForCausalLM, AutoTokenizer

asked = json.load(sys.stdin)
sentences = json.loads(Path(asked["texts"]).read_text(encoding="utf-8"))[:5]
decoder = AutoModelForCausalLM.from_pretrained(asked["decoder"])
ids = AutoTokenizer.from_pretrained(asked["decoder"])(sentences)["input_ids"]
assert decoder.config.vocab_size > max(map(max, ids)), "tokens that the decoder has not"
found = {"version": "1.2", "device": asked["device"], "seconds": 2.0, "peak_bytes": 2**20, "texts": 5, "max_tokens": 7}
print(json.dumps({**found, "truncated": asked["steps"], "tokens_read": 0.5, "lengths": list(map(len, ids))}))
"""
"""Of a library with an environment of its own that is asked to train."""


def interpreter(folder: Path, lines: str) -> str:
    """A shell script in `folder` in the place of Python."""
    file = folder / "python"
    file.write_text(f"#!/bin/sh\n{lines}\n", encoding="utf-8")
    file.chmod(0o755)
    return str(file)


def test_everything_is_measured(
    prepared: Path, encoder_backbone: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "benchmarks.json"
    changes = (
        f"model.encoder.name={encoder_backbone}",
        "model.units.width=16",
        "model.units.heads=2",
        "data.batch_tokens=200",
        *TINY,
    )
    source = ("--source", str(prepared.parent / "corpus.jsonl"), "--limit", "20", "--vocabulary-size", "400")
    (tmp_path / "stand_in.py").write_text(STAND_IN, encoding="utf-8")
    python = interpreter(tmp_path, f'[ "$1" = -c ] || exec "{sys.executable}" "{tmp_path}/stand_in.py"')
    against = ["--against", f"langvae={python}"]
    if installed := find_spec(PEER.replace("-", "_")) is not None:
        against += ["--against", PEER]
    assert run_script("benchmarks/run.py", *source, "--steps", "2", "--out", str(out), *against, *changes) == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    measures = found["measures"]
    assert list(measures) == ["preparation", "features", "training", "embedding", "likelihood", "generation"]
    lines = capfd.readouterr().out.splitlines()
    for name, one in measures.items():
        assert one["tokens"] > 0
        assert one["peak_bytes"] > 2**26
        assert one["tokens_per_second"] == pytest.approx(one["tokens"] / one["seconds"])
        assert any(line.startswith(f"| {name} | {one['tokens_per_second']:,.0f} |") for line in lines)
        has_floor = name not in ("preparation", "features")
        assert ("times_the_floor" in one) == has_floor
        assert (one["padding"] is not None) == (has_floor and name != "generation")
        if one["padding"] is not None:
            assert 0 <= one["padding"] < 0.9
    assert measures["embedding"]["tokens"] == measures["likelihood"]["tokens"]
    assert found["config"]["model"]["units"]["width"] == 16
    trained = found["against"]["langvae"]
    assert trained["tokens_per_second"] == 0.5 * (sum(trained["lengths"]) + 5) / 2.0
    assert f"| training | textvae | {measures['training']['tokens_per_second']:,.0f} | 100 % |" in "\n".join(lines)
    read = "50 %: 2 of 5 sentences are cut after 7 tokens"
    assert f"| training | langvae 1.2 | {trained['tokens_per_second']:,.0f} | {read} | 1 |" in lines
    if installed:
        peer = found["against"][PEER]
        assert (peer["texts"], peer["max_tokens"], peer["device"]) == (18, 64, "cpu")
        assert 0 < peer["truncated"] < 18
        assert 0.5 < peer["tokens_read"] < 1
        tokens = measures["embedding"]["tokens"] * peer["tokens_read"]
        assert peer["tokens_per_second"] == pytest.approx(tokens / peer["seconds"])
        read = f"{100 * peer['tokens_read']:.0f} %: {peer['truncated']} of 18 documents are cut after 64 tokens"
        line = f"| embedding | {PEER} {peer['version']} | {peer['tokens_per_second']:,.0f} | {read} |"
        assert sum(one.startswith(line) for one in lines) == 1
    assert not list(ROOT.glob("benchmarks.json"))


@pytest.mark.parametrize(
    ("peer", "message"),
    [
        ("word2vec", "--against word2vec: there is no such peer; there are sentence-transformers, langvae"),
        (f"{PEER}=nowhere/python", "'nowhere/python' is no interpreter (No such file or directory)"),
        (f"{PEER}=PYTHON", "/python has no module sentence_transformers: there, pip install sentence-transformers"),
    ],
)
def test_a_peer_that_is_not_there_is_named_before_anything_is_measured(
    peer: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = interpreter(tmp_path, f'exec "{sys.executable}" -S "$@"')
    assert run_script("benchmarks/run.py", "--against", peer.replace("PYTHON", alone)) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err


@pytest.fixture
def featured(prepared: Path, encoder_backbone: str, tmp_path: Path) -> str:
    """The corpus of `prepared` with cached features."""
    data = str(tmp_path / "data")
    corpus = str(prepared.parent / "corpus.jsonl")
    options = ("--encoder", encoder_backbone, "--vocabulary-size", "300", "--cache-features")
    assert main(["prepare", corpus, "--out", data, *options]) == 0
    return data


def test_time_by_length_is_that_of_the_same_sentences(
    featured: str, encoder_backbone: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "lengths.json"
    changes = (f"model.encoder.name={encoder_backbone}", "model.units.width=16", "model.units.heads=2", *TINY)
    asked = ("--sentences", "2", "12", "--total", "24", "--repeat", "2", "--out", str(out))
    assert run_script("benchmarks/document_length.py", featured, *asked, *changes) == 0
    short, long = json.loads(out.read_text(encoding="utf-8"))["lengths"].values()
    assert (short["documents"], long["documents"]) == (12, 2)
    assert short["tokens"] == long["tokens"]
    assert short["times_the_first"] == 1
    for one in (short, long):
        assert one["microseconds"] > one["floor_microseconds"] > 0
    assert f"| 12 | {long['microseconds']:,.0f} |" in capfd.readouterr().out


def test_operators_of_a_step_stand_beside_the_decoders_own(
    featured: str, encoder_backbone: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "operators.json"
    changes = (f"model.encoder.name={encoder_backbone}", "model.units.width=16", "model.units.heads=2", *TINY)
    asked = ("--sentences", "4", "--total", "24", "--top", "3", "--out", str(out))
    assert run_script("benchmarks/operators.py", featured, *asked, *changes) == 0
    operators = json.loads(out.read_text(encoding="utf-8"))["operators"]
    assert sum(one["share"] for one in operators.values()) == pytest.approx(1)
    times = [one["microseconds"] for one in operators.values()]
    assert times == sorted(times, reverse=True)
    products = operators["aten::mm"]
    assert products["calls"] > products["decoder_calls"] > 0
    assert operators["aten::exp"]["calls"] > operators["aten::exp"]["decoder_calls"] == 0  # of variances
    lines = [line for line in capfd.readouterr().out.splitlines() if line.startswith("| ")]
    assert [line.split()[1] for line in lines[1:4]] == list(operators)[:3]


def test_searches_of_proposals_stand_beside_those_of_everything(
    run: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    corpus, index, out = tmp_path / "corpus.jsonl", tmp_path / "index", tmp_path / "search.json"
    names = ("boat", "soup", "wall", "night")
    records = [{"id": name, "title": name, "text": f"The {name} moved. It was late."} for name in names]
    corpus.write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
    assert main(["embed", str(corpus), "--model", run, "--out", str(index)]) == 0
    before = sorted(index.rglob("*"))
    assert run_script("benchmarks/search_speed.py", str(index), "--queries", "3", "--out", str(out)) == 0
    found = json.loads(out.read_text(encoding="utf-8"))
    assert (found["queries"], list(found["built"])) == (3, ["hnsw", "ivf"])
    assert [one["neighbours"] for one in found["searches"]] == [None] * 6 + ["hnsw"] * 6 + ["ivf"] * 6
    # All of so few are looked at in any case.
    assert {(one["found"], one["first"]) for one in found["searches"]} == {(1.0, 1.0)}
    assert len([line for line in capfd.readouterr().out.splitlines() if line.startswith("| ")]) == 1 + 18
    assert sorted(index.rglob("*")) == before


@pytest.mark.slow
def test_memory_is_measured_by_the_size_of_a_corpus(
    prepared: Path, encoder_folder: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sizes.json"
    corpus = str(prepared.parent / "corpus.jsonl")
    asked = ("--source", corpus, "--times", "1.5", "--stream", "1.5", "--open", "3000", "--out", str(out))
    options = ("--encoder", encoder_folder, "--vocabulary-size", "300", "--max-sentence-tokens", "48")
    assert run_script("benchmarks/corpus_size.py", *asked, "--", *options) == 0
    found = json.loads(out.read_text(encoding="utf-8"))["measures"]
    documents = {"prepare 1.5 x": 48, "stream 1.5 x": 48, "open 3000": 3000}
    assert {name: one["documents"] for name, one in found.items()} == documents
    for one in found.values():
        assert 2**26 < one["peak_own_bytes"] < one["peak_bytes"] < 2**32
        assert one["processor_seconds"] > 0
    assert len([line for line in capfd.readouterr().out.splitlines() if line.startswith("| ")]) == 4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_compiled_steps_are_compared_with_the_same_uncompiled(
    prepared: Path, encoder_backbone: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "compiled.json"
    changes = (f"model.encoder.name={encoder_backbone}", "model.units.width=16", "model.units.heads=2", *TINY)
    many_shapes = ("data.batch_tokens=200", "model.decoder.packing=false")
    asked = ("--warm-up", "2", "--steps", "3", "--out", str(out), *many_shapes)
    assert run_script("benchmarks/compiled.py", str(prepared), *asked, *changes) == 0
    found = json.loads(out.read_text(encoding="utf-8"))["compiled"]
    assert 1 <= found["graphs"] <= 4
    assert found["shapes"] > found["graphs"]
    assert found["compiling_seconds"] > 0.1
    assert found["times"] > 0
    assert f"a step takes {found['times']:.2f} of the time" in capfd.readouterr().out
