"""Other libraries on the same text, each run by a script of `peers/` in an environment of its own.

A script reads what it is asked for as JSON from standard input, and prints what it measured as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from measures import WARM_UP, Job, Measured

from textvae.build import build_model
from textvae.data.dataset import load_prepared
from textvae.devices import choose_device
from textvae.pretrained import resolve_backbone

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Peer:
    measure: str
    """What of textvae it stands beside."""
    texts: str
    """That it is given: `documents` or `sentences`."""
    script: str
    module: str
    """That its environment must have."""


PEERS = {
    "sentence-transformers": Peer("embedding", "documents", "encode.py", "sentence_transformers"),
    "langvae": Peer("training", "sentences", "train_sentences.py", "langvae"),
}
"""By the name that `pip install` knows."""


def parse(asked: str) -> tuple[str, str]:
    """`NAME` or `NAME=PYTHON`, as the name of a peer and the interpreter of its environment (default: this one), which
    is seen to have it. Raises ValueError where it has not, or there is no such peer."""
    name, _, python = asked.partition("=")
    python = python or sys.executable
    if name not in PEERS:
        raise ValueError(f"--against {name}: there is no such peer; there are {', '.join(PEERS)}")
    module = PEERS[name].module
    has_it = f"import importlib.util, sys; sys.exit(importlib.util.find_spec('{module}') is None)"
    try:
        tried = subprocess.run([python, "-c", has_it], check=False)
    except OSError as error:
        raise ValueError(f"--against {asked}: '{python}' is no interpreter ({error.strerror})") from None
    if tried.returncode:
        raise ValueError(
            f"--against {name}: {python} has no module {module}: there, pip install {name}, or name the interpreter of "
            f"an environment that has it, --against {name}=PYTHON"
        )
    return name, python


def run_peer(name: str, python: str, job: Job) -> dict[str, Any]:
    """What the peer measured, as its script gives it, and the tokens per second of what it reads of the text: the
    decoder's, sentence ends included, as textvae counts its own.

    Raises ChildProcessError where the script fails.
    """
    peer = PEERS[name]
    texts, token_counts = _text(peer.texts, job)
    file = job.folder / "texts.json"
    file.write_text(json.dumps(texts), encoding="utf-8")
    asked = {
        "texts": str(file),
        "encoder": resolve_backbone(job.config.model.encoder.name),
        "decoder": str(_decoder(job)),
        "steps": job.config.train.steps - WARM_UP,
        "device": str(choose_device()),
    }
    command = [python, str(HERE / "peers" / peer.script)]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        raise ChildProcessError(f"{name} failed: {said[-1]}")
    found = json.loads(done.stdout.splitlines()[-1])
    tokens = found["tokens_read"] * sum(token_counts[: found["texts"]])
    return {**found, "tokens_per_second": tokens / found["seconds"]}


def _text(kind: str, job: Job) -> tuple[list[str], list[int]]:
    """All documents, or all their sentences, and the tokens of each."""
    known = job.documents()
    documents = [known.read(row) for row in range(len(known))]
    if kind == "documents":
        return [document.text() for document in documents], known.token_counts.tolist()
    sentences = [sentence for document in documents for sentence in document.sentences]
    return sentences, [length + 1 for document in documents for length in document.decoder_lengths]


def _decoder(job: Job) -> Path:
    """A folder with the decoder that textvae trains, without adapters, as any version of transformers reads it. One
    that has no name is drawn anew: what it takes is the same."""
    processor = load_prepared(job.config.data.path, "train").processor
    plain = replace(job.config.model.decoder, lora=None)
    folder = job.folder / "decoder"
    build_model(replace(job.config.model, decoder=plain), processor).decoder.backbone.save_pretrained(folder)
    processor.decoder_tokenizer.save_pretrained(folder)
    settings = folder / "tokenizer_config.json"
    named = json.loads(settings.read_text(encoding="utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    settings.write_text(json.dumps(named), encoding="utf-8")
    return folder


def table(own: Mapping[str, Measured], peers: Mapping[str, dict[str, Any]]) -> str:
    """`own`: textvae's, by measure."""
    lines = ["| | | tokens/s | of the text, it reads | peak, MiB |", "|---|---|---|---|---|"]
    for measure in dict.fromkeys(PEERS[name].measure for name in peers):
        mine = own[measure]
        lines.append(_line(measure, "textvae", mine.tokens / mine.seconds, "100 %", mine.peak_bytes))
        for name, one in peers.items():
            if PEERS[name].measure == measure:
                cut = (
                    f"{one['truncated']} of {one['texts']} {PEERS[name].texts} are cut after {one['max_tokens']} tokens"
                )
                read = f"{100 * one['tokens_read']:.0f} %: {cut}"
                lines.append(
                    _line(measure, f"{name} {one['version']}", one["tokens_per_second"], read, one["peak_bytes"])
                )
    return "\n".join(lines)


def _line(measure: str, who: str, speed: float, read: str, peak_bytes: int) -> str:
    return f"| {measure} | {who} | {speed:,.0f} | {read} | {peak_bytes / 2**20:,.0f} |"
