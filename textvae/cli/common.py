"""What several commands share: sampling options, reading a file, showing documents."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from textvae.data.document import SourceDocument
from textvae.data.sources.files import read_document
from textvae.text_vae import GeneratedDocument
from textvae.writing.plan import SamplingOptions


def add_sampling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--temperature", type=float, default=SamplingOptions.temperature, help="of the words; 0 is greedy"
    )
    parser.add_argument("--top-p", type=float, default=0.9)
    parser.add_argument("--latent-temperature", type=float, default=SamplingOptions.latent_temperature)


def sampling(arguments: argparse.Namespace) -> SamplingOptions:
    return SamplingOptions(
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        latent_temperature=arguments.latent_temperature,
    )


def read(file: str) -> SourceDocument:
    """The one document of a text or JSON file. Raises ValueError naming the file if it holds none, or several."""
    return read_document(file)


def show(written: Sequence[GeneratedDocument], out: str | None, headings: Sequence[str]) -> None:
    if out is None:
        for heading, document in zip(headings, written, strict=True):
            print(f"--- {heading} ---\n{document.text}\n")
        return
    with Path(out).open("w", encoding="utf-8") as file:
        for number, document in enumerate(written):
            record = {
                "id": str(number),
                "text": document.text,
                "sentences": document.sentences,
                "structure": document.structure,
            }
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rsplit(" ", 1)[0] + " …"
