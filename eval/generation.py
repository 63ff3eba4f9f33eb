"""What is written under the themes of real documents, beside those documents: whether it keeps to its theme, how it
drifts from it, whether it reads like them, and what it copies.

A theme is the document latent of a real document, one of every source; it is held, and everything else is drawn. Under
`accelerate launch`, the themes are shared out over the processes.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from textvae.cli.evaluation import evaluation_parser, open_evaluation, run_script, write_result
from textvae.cli.source_options import open_source
from textvae.cli.writing_options import SAMPLING, add_sampling, sampling
from textvae.data.dataset import Documents
from textvae.data.document import EncodedDocument
from textvae.evaluation.generation.agreement import (
    Drift,
    Embedded,
    agreement,
    drift,
    embed,
    likeliest_agreement,
    plan_agreements,
    tfidf_agreement,
)
from textvae.evaluation.generation.judge import Judge
from textvae.evaluation.generation.themes import choose_themes, prior_themes, write_under_themes
from textvae.evaluation.generation.variance import variance_shares
from textvae.evaluation.generation.wording import copied, distinct, self_bleu, structure
from textvae.text_vae import GeneratedDocument, HierarchicalTextVAE

OWN, LIKELIEST, TFIDF, ENCODER = "own", "likeliest", "tfidf", "encoder_mean"
"""Ways to compare a document with a theme: by the cosine of their latents, by how likely its posterior makes the theme,
by the words, by the pretrained encoder's mean."""


def build_parser() -> argparse.ArgumentParser:
    parser = evaluation_parser(__doc__)
    parser.add_argument(
        "--themes", type=int, default=50, metavar="N", help="documents that lend their themes (default: %(default)s)"
    )
    parser.add_argument(
        "--prior-themes", type=int, default=0, metavar="N", help="also write of N themes that are drawn, not read"
    )
    parser.add_argument("--num", type=int, default=1, help="documents to write of each theme (default: %(default)s)")
    parser.add_argument(
        "--judge", metavar="NAME", help="causal language model, by Hub name or folder, that says how fluent the text is"
    )
    parser.add_argument(
        "--copied-from",
        metavar="SPLIT",
        help="split of the data that the model was trained on: how much is copied from it",
    )
    parser.add_argument("--documents", metavar="FILE.jsonl", help="write every document, with its drift, here")
    add_sampling(parser, seed=False)
    return parser


def run(arguments: argparse.Namespace) -> None:
    options = sampling(arguments)
    if arguments.prior_themes < 0 or arguments.prior_themes == 1:
        raise ValueError(f"--prior-themes is {arguments.prior_themes}; it must be 2 or more, or 0 for none")
    process, model, documents = open_evaluation(arguments)
    _ = model.theme_level  # which a model without one refuses
    chosen = choose_themes(documents, arguments.themes)
    # What may be wrong is found out before the writing, which takes the time.
    judge = Judge(arguments.judge, model.device) if arguments.judge else None
    training = None
    if arguments.copied_from:
        whole = argparse.Namespace(**vars(arguments) | {"limit": None})
        training = open_source(whole, arguments.data, model, arguments.copied_from)
    real = [chosen.read(row) for row in range(len(chosen))]
    themes = embed(model, real)
    began = time.perf_counter()
    groups = write_under_themes(model, themes.theme, arguments.num, arguments.seed, options, process)
    seconds = time.perf_counter() - began
    drawn = prior_themes(model, arguments.prior_themes, arguments.seed)
    under_prior = write_under_themes(model, drawn, 1, arguments.seed, options, process)
    if not process.is_main_process:
        return
    of = np.repeat(np.arange(len(real)), arguments.num)
    written = list(chain.from_iterable(groups))
    encoded = [model.reread(document) for document in written]
    again = embed(model, encoded)
    drifted = drift(again, themes, of)
    texts = {"written": [document.text for document in written], "real": [document.text() for document in real]}
    others = _other_sections(model, documents, real)
    result: dict[str, Any] = {
        "documents": len(written),
        "themes": len(real),
        "seed": arguments.seed,
        "seconds": seconds,
        "settings": {
            option: getattr(options, option.replace("-", "_")) for option in (*SAMPLING, "latent-temperature")
        },
        "theme": {
            "chance": 1 / len(real),
            **_agreements(again, texts["written"], themes, texts["real"], of),
            "real_sections": _of_real_sections(others, themes, texts["real"]),
            "prior": _of_prior(model, under_prior, drawn),
        },
        "plan": {
            name: asdict(found)
            for name, found in plan_agreements(model, [document.plan for document in written], encoded).items()
        },
        "drift": {name: _mean(values) for name, values in asdict(drifted).items()},
        "diversity": _diversity(groups, real, texts),
        "variance": {
            "written": variance_shares(again.sentences, encoded, model.config.hierarchy),
            "real": variance_shares(themes.sentences, real, model.config.hierarchy),
        },
        "structure": {"written": asdict(structure(encoded)), "real": asdict(structure(real))},
    }
    if judge is not None:
        result["fluency"] = {"judge": arguments.judge} | {
            f"{name}_nats_per_token": judge.nats_per_token(of_kind) for name, of_kind in texts.items()
        }
    if training is not None:
        result["copied"] = copied(texts, (training.read(row).text() for row in range(len(training))))
    write_result(arguments.out, _without_nan(result))
    if arguments.documents:
        _write_documents(arguments.documents, [real[number].id for number in of], written, drifted)
    print(*table(result), sep="\n")


def _other_sections(
    model: HierarchicalTextVAE, documents: Documents, real: Sequence[EncodedDocument]
) -> tuple[Embedded, list[str], np.ndarray] | None:
    """Of the sources that the themes are of, another section each: real text on the theme. None if there is none."""
    place = {document.source_id: number for number, document in enumerate(real)}
    used = {document.id for document in real}
    rows: dict[int, int] = {}
    for row, (name, source) in enumerate(zip(documents.ids, documents.source_ids, strict=True)):
        if name not in used and source in place:
            rows.setdefault(place[source], row)
    if not rows:
        return None
    found = [documents.read(row) for row in rows.values()]
    return embed(model, found), [document.text() for document in found], np.fromiter(rows, dtype=int)


def _of_real_sections(
    others: tuple[Embedded, list[str], np.ndarray] | None, themes: Embedded, texts: Sequence[str]
) -> dict[str, Any] | None:
    if others is None:
        return None
    embedded, of_others, of = others
    return {"documents": len(of), **_agreements(embedded, of_others, themes, texts, of)}


def _of_prior(
    model: HierarchicalTextVAE, groups: Sequence[Sequence[GeneratedDocument]], drawn: np.ndarray
) -> dict[str, Any] | None:
    """Of documents written under themes [T, Z] that no text lent; None where there are none."""
    if not len(drawn):
        return None
    again = embed(model, [model.reread(document) for document in chain.from_iterable(groups)])
    own = np.arange(len(drawn))
    return {
        "documents": len(drawn),
        "chance": 1 / len(drawn),
        "agreement": agreement(again.theme, drawn, own),
        f"agreement_{LIKELIEST}": likeliest_agreement(again, drawn, own),
    }


def _agreements(
    found: Embedded, texts: Sequence[str], themes: Embedded, theme_texts: Sequence[str], of: np.ndarray
) -> dict[str, float]:
    """Share of documents whose nearest theme is number `of` [D], their own, by each way to compare."""
    return {
        "agreement": agreement(found.theme, themes.theme, of),
        f"agreement_{LIKELIEST}": likeliest_agreement(found, themes.theme, of),
        f"agreement_{TFIDF}": tfidf_agreement(texts, theme_texts, of),
        f"agreement_{ENCODER}": agreement(found.features, themes.features, of),
    }


def _diversity(
    groups: Sequence[Sequence[GeneratedDocument]], real: Sequence[EncodedDocument], texts: dict[str, list[str]]
) -> dict[str, float]:
    words = min(sum(len(text.split()) for text in of_kind) for of_kind in texts.values())
    within = [[text for document in group for text in document.paragraphs] for group in groups]
    return {
        "self_bleu": self_bleu(within),
        "distinct_2": distinct(texts["written"], 2, words),
        "real_self_bleu": self_bleu([list(document.paragraphs()) for document in real]),
        "real_distinct_2": distinct(texts["real"], 2, words),
    }


def _mean(values: Sequence[Sequence[float]]) -> float:
    flat = list(chain.from_iterable(values))
    return fmean(flat) if flat else math.nan


def _without_nan(value: Any) -> Any:
    """What could not be measured is null in JSON."""
    if isinstance(value, dict):
        return {key: _without_nan(member) for key, member in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def _write_documents(path: str, themes: Sequence[str], written: Sequence[GeneratedDocument], drifted: Drift) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with Path(path).open("w", encoding="utf-8") as file:
        for name, document, rows in zip(themes, written, drifted.written, strict=True):
            record = {
                "theme_of": name,
                "text": document.text,
                "structure": document.structure,
                "theme_similarity": rows,
            }
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def table(result: dict[str, Any]) -> Iterator[str]:
    theme, diversity, drifted = result["theme"], result["diversity"], result["drift"]
    count, themes, seconds = (result[key] for key in ("documents", "themes", "seconds"))
    yield f"{count} documents written under {themes} themes in {seconds:.0f} s, chance {theme['chance']:.1%}"
    yield f"{'':34}{'written':>10}{'real':>10}"
    beside = theme["real_sections"] or {}
    for key, said in (
        ("agreement", OWN),
        (f"agreement_{LIKELIEST}", LIKELIEST),
        (f"agreement_{TFIDF}", TFIDF),
        (f"agreement_{ENCODER}", ENCODER),
    ):
        other = f"{beside[key]:.0%}" if beside else "-"
        yield f"{f'nearest theme is its own, {said}':34}{theme[key]:>10.0%}{other:>10}"
    if theme["prior"]:
        prior = theme["prior"]
        for key, said in (("agreement", OWN), (f"agreement_{LIKELIEST}", LIKELIEST)):
            yield f"{f'the same of themes drawn, {said}':34}{prior[key]:>10.0%}  of {prior['documents']}"
    yield f"{'paragraph to theme, cosine':34}{drifted['written']:>10.2f}{drifted['real']:>10.2f}"
    for name, found in result["plan"].items():
        yield f"{f'nearest {name} plan is its own':34}{found['agreement']:>10.0%}  of {found['units']}"
        yield f"{'  nearer than another, a sibling':34}{found['nearer']:>10.0%}{found['nearer_than_siblings']:>10.0%}"
    for name, share in result["variance"]["written"].items():
        said = f"variance between {name}s"
        yield f"{said:34}{share:>10.0%}{result['variance']['real'][name]:>10.0%}"
    yield f"{'self-BLEU of paragraphs':34}{diversity['self_bleu']:>10.2f}{diversity['real_self_bleu']:>10.2f}"
    yield f"{'distinct bigrams':34}{diversity['distinct_2']:>10.3f}{diversity['real_distinct_2']:>10.3f}"
    for key, value in result["structure"]["written"].items():
        yield f"{key.replace('_', ' '):34}{value:>10.1f}{result['structure']['real'][key]:>10.1f}"
    if "fluency" in result:
        fluency = result["fluency"]
        yield f"{'nats per token, by the judge':34}" + "".join(
            f"{fluency[f'{kind}_nats_per_token']:>10.2f}" for kind in ("written", "real")
        )
    if "copied" in result:
        shares = (f"{result['copied'][kind]:>10.2%}" for kind in ("written", "real"))
        yield f"{'runs of 8 words seen in training':34}" + "".join(shares)


if __name__ == "__main__":
    raise SystemExit(run_script(build_parser(), run))
