"""Documents a second: an index of all levels beside sentence-transformers' `encode`, the same texts and encoder, in
single precision and in bfloat16, one after the other in each of several rounds; seconds of the processor.

textvae's include segmentation, latents and the files of the index; it cuts nothing.

    OMP_NUM_THREADS=1 python experiments/documents_per_second.py TEXTS.jsonl --model RUN --documents 1000
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from statistics import median

import torch
from sentence_transformers import SentenceTransformer

from textvae.data.dataset import Documents
from textvae.data.document import SourceDocument
from textvae.data.sources.files import read_file
from textvae.data.sources.records import FieldNames
from textvae.pretrained import resolve_backbone
from textvae.runs import load_run
from textvae.search.embed import embed_corpus
from textvae.text_vae import HierarchicalTextVAE

ROUNDS = 3
DTYPES = (torch.float32, torch.bfloat16)


def index_of(model: HierarchicalTextVAE, texts: list[str], run: str) -> None:
    sources = [SourceDocument(str(number), text=text) for number, text in enumerate(texts)]
    with tempfile.TemporaryDirectory() as folder:
        embed_corpus(model, Documents.of(model.process(sources)), Path(folder) / "index", run)


def vectors_of(encoder: str, dtype: torch.dtype, longest: int | None) -> Callable[[list[str]], object]:
    """`longest`: tokens that are read of a text; None is the library's default."""
    model = SentenceTransformer(encoder, device="cpu", model_kwargs={"dtype": dtype})
    if longest is not None:
        model.max_seq_length = longest
    return lambda texts: model.encode(texts, show_progress_bar=False, convert_to_tensor=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="TEXTS", help="a file of records with a text")
    parser.add_argument("--model", required=True, metavar="RUN")
    parser.add_argument("--documents", type=int, default=1000, metavar="N", help="at most (default: %(default)s)")
    arguments = parser.parse_args()
    documents = islice(read_file(arguments.source, arguments.source.parent, FieldNames()), arguments.documents)
    texts = [document.text or "" for document in documents]
    models = {dtype: load_run(arguments.model, "cpu", dtype) for dtype in DTYPES}
    encoder = resolve_backbone(models[torch.float32].config.model_config.encoder.name)
    jobs: dict[str, Callable[[list[str]], object]] = {}
    for dtype, model in models.items():
        name = str(dtype).removeprefix("torch.")
        jobs[f"sentence-transformers, {name}"] = vectors_of(encoder, dtype, None)
        jobs[f"sentence-transformers, {name}, 512 tokens"] = vectors_of(encoder, dtype, 512)
        jobs[f"textvae, {name}"] = lambda texts, model=model: index_of(model, texts, arguments.model)
    speeds: dict[str, list[float]] = {name: [] for name in jobs}
    for number in range(ROUNDS + 1):
        for name, job in jobs.items():
            began = time.process_time()
            job(texts)
            if number:  # the first compiles kernels
                speeds[name].append(len(texts) / (time.process_time() - began))
    for name, found in speeds.items():
        print(f"{name:45} {median(found):6.1f} documents/s ({min(found):.1f} to {max(found):.1f})")


if __name__ == "__main__":
    main()
