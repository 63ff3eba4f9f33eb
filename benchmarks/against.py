"""Other libraries on the same text, each run by a script of `peers/` in an environment of its own.

A script reads what it is asked for as JSON from standard input, and prints what it measured as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measures import Job, Measured

from textvae.devices import choose_device
from textvae.pretrained import resolve_backbone

HERE = Path(__file__).parent
BATCH_SIZE = 32
"""Documents at a time, the library's own default."""


@dataclass(frozen=True)
class Peer:
    script: str
    module: str
    """That its environment must have."""
    install: str
    """What `pip install` is to be given."""


PEERS = {"sentence-transformers": Peer("encode.py", "sentence_transformers", "sentence-transformers")}


def parse(asked: str) -> tuple[str, str]:
    """`NAME` or `NAME=PYTHON`, as the name of a peer and the interpreter of its environment (default: this one), which
    is seen to have it. Raises ValueError where it has not, or there is no such peer."""
    name, _, python = asked.partition("=")
    python = python or sys.executable
    if name not in PEERS:
        raise ValueError(f"--against {name}: there is no such peer; there are {', '.join(PEERS)}")
    peer = PEERS[name]
    has_it = f"import importlib.util, sys; sys.exit(importlib.util.find_spec('{peer.module}') is None)"
    try:
        tried = subprocess.run([python, "-c", has_it], check=False)
    except OSError as error:
        raise ValueError(f"--against {asked}: '{python}' is no interpreter ({error.strerror})") from None
    if tried.returncode:
        raise ValueError(
            f"--against {name}: {python} has no module {peer.module}: there, pip install {peer.install}, or name the "
            f"interpreter of an environment that has it, --against {name}=PYTHON"
        )
    return name, python


def run_peer(name: str, python: str, job: Job) -> dict[str, Any]:
    """What the peer measured of the documents that `measures.embedding` embeds, whole, as its script gives it.

    Raises ChildProcessError where the script fails.
    """
    texts = job.folder / "texts.jsonl"
    documents = job.documents()
    with texts.open("w", encoding="utf-8") as file:
        for row in range(len(documents)):
            file.write(json.dumps(documents.read(row).text()) + "\n")
    asked = {
        "model": resolve_backbone(job.config.model.encoder.name),
        "texts": str(texts),
        "device": str(choose_device()),
        "batch_size": BATCH_SIZE,
    }
    command = [python, str(HERE / "peers" / PEERS[name].script)]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=False)
    if done.returncode:
        raise ChildProcessError(f"{name} failed: {done.stderr.strip().splitlines()[-1]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return {**found, "documents_per_second": found["documents"] / found["seconds"]}


def table(embedding: Measured, peers: dict[str, dict[str, Any]]) -> str:
    """`embedding`: textvae's own, of the same documents."""
    assert embedding.documents is not None
    lines = ["| | documents/s | of their tokens, it reads | peak, MiB |", "|---|---|---|---|"]
    speed, peak = embedding.documents / embedding.seconds, embedding.peak_bytes / 2**20
    lines.append(f"| textvae embed | {speed:,.1f} | 100 % | {peak:,.0f} |")
    for name, one in peers.items():
        cut = f"the first {one['max_tokens']} of each; {one['truncated']} of {one['documents']} documents are cut"
        read = f"{100 * one['tokens_read']:.0f} % ({cut})"
        peak = one["peak_bytes"] / 2**20
        lines.append(f"| {name} {one['version']} | {one['documents_per_second']:,.1f} | {read} | {peak:,.0f} |")
    return "\n".join(lines)
