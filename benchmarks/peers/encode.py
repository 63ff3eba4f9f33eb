"""Vectors of documents by sentence-transformers: one JSON object on standard input, one on standard output.

Run by `benchmarks/run.py --against sentence-transformers`, in an environment that may be the library's own: it imports
nothing of textvae.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer


def main() -> None:
    asked = json.load(sys.stdin)
    texts = json.loads(Path(asked["texts"]).read_text(encoding="utf-8"))
    device = asked["device"]
    now = time.process_time if device == "cpu" else time.perf_counter
    model = SentenceTransformer(asked["encoder"], device=device)
    model.encode(texts, show_progress_bar=False)
    began = now()
    model.encode(texts, show_progress_bar=False)
    seconds = now() - began
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if device != "cpu":
        peak = torch.get_device_module(device).max_memory_allocated()
    lengths = [len(ids) for ids in model.tokenizer(texts, truncation=False, verbose=False)["input_ids"]]
    limit = model.max_seq_length
    found = {
        "version": version("sentence-transformers"),
        "device": device,
        "texts": len(texts),
        "seconds": seconds,
        "peak_bytes": peak,
        "max_tokens": limit,
        "truncated": sum(length > limit for length in lengths),
        "tokens_read": sum(min(length, limit) for length in lengths) / sum(lengths),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
