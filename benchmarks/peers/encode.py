"""Vectors of documents by sentence-transformers: one JSON object on standard input, one on standard output.

Run by `benchmarks/run.py --against sentence-transformers`, in an environment that may be the library's own: it imports
nothing of textvae.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from gauge import answer, now, peak_bytes
from sentence_transformers import SentenceTransformer


def main() -> None:
    asked = json.load(sys.stdin)
    texts = json.loads(Path(asked["texts"]).read_text(encoding="utf-8"))
    device = asked["device"]
    model = SentenceTransformer(asked["encoder"], device=device)
    model.encode(texts, show_progress_bar=False)
    began = now(device)
    model.encode(texts, show_progress_bar=False)
    seconds = now(device) - began
    peak = peak_bytes(device)
    lengths = [len(ids) for ids in model.tokenizer(texts, truncation=False, verbose=False)["input_ids"]]
    answer("sentence-transformers", device, seconds, peak, lengths, model.max_seq_length)


if __name__ == "__main__":
    main()
