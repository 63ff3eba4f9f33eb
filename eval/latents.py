"""What the latents of every level carry, and what the text costs without them.

Under `accelerate launch`, the documents are shared out over the processes; the result is that of one process.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sacrebleu.metrics import BLEU

from textvae.cli.evaluation import evaluation_parser, open_evaluation, run_script, sections, write_result
from textvae.evaluation.diagnostics import (
    LevelDiagnostics,
    Reconstruction,
    exact_match,
    latent_diagnostics,
    reconstruct,
)

HEADER = (
    "                          |  rate, nats per  |    mutual    |  rise of the NLL, nats per unit, |  payoff over",
    "level        units active |   unit  document | information  |      shuffled           zeroed   |  draw   mean",
)
ROW = "{:<12}{:>6}{:>7} |{:>7}{:>10} |{:>13} |{:>16}{:>17} |{:>6}{:>7}"


def build_parser() -> argparse.ArgumentParser:
    parser = evaluation_parser(__doc__)
    parser.add_argument(
        "--reconstruct",
        type=int,
        default=20,
        metavar="N",
        help="documents to decode greedily from their posterior means (default: %(default)s; 0 leaves it out)",
    )
    return parser


def run(arguments: argparse.Namespace) -> None:
    if arguments.reconstruct < 0:
        raise ValueError(f"--reconstruct is {arguments.reconstruct}; it must be 0 or more")
    process, model, documents = open_evaluation(arguments)
    if not model.level_names:
        raise ValueError(f"'{arguments.model}' is a plain language model: it has no latents to examine")
    report = latent_diagnostics(model, documents, arguments.seed, process=process, batch_tokens=arguments.batch_tokens)
    reconstructions = reconstruct(model, documents, arguments.reconstruct, process=process)
    if not process.is_main_process:
        return
    result = report.to_json()
    if reconstructions:
        result["reconstruction"] = scores(reconstructions)
    write_result(arguments.out, result)
    print(*table(report.levels), sep="\n")
    if report.sources != report.documents:
        print(f"{sections(result)}: intervals are clustered by document")
    if reconstructions:
        print(
            "reconstruction of {documents} documents: {exact_match:.1%} of {sentences} sentences exactly, "
            "sacreBLEU {sacrebleu:.2f}".format_map(result["reconstruction"])
        )


def scores(reconstructions: Sequence[Reconstruction]) -> dict[str, Any]:
    """Exact match and corpus BLEU (Post 2018), a sentence a segment."""
    bleu = BLEU()
    written = [sentence for r in reconstructions for sentence in r.written]
    original = [sentence for r in reconstructions for sentence in r.original]
    return {
        "documents": len(reconstructions),
        "sentences": len(original),
        "exact_match": exact_match(reconstructions),
        "sacrebleu": bleu.corpus_score(written, [original]).score,
        "sacrebleu_signature": str(bleu.get_signature()),
    }


def table(levels: Mapping[str, LevelDiagnostics]) -> Iterator[str]:
    yield from HEADER
    for name, level in levels.items():
        yield ROW.format(
            name,
            level.units,
            f"{level.active_units}/{level.dims}",
            f"{level.rate_per_unit:.2f}",
            f"{level.rate_per_document:.2f}",
            f"{level.mutual_information:.2f} of {level.mutual_information_ceiling:.2f}",
            _increase(level.nll_increase_when_shuffled, level.nll_increase_when_shuffled_interval),
            _increase(level.nll_increase_when_zeroed, level.nll_increase_when_zeroed_interval),
            *("-" if value is None else f"{value:.2f}" for value in (level.payoff, level.payoff_over_prior_mean)),
        )


def _increase(value: float, interval: Sequence[float]) -> str:
    return f"{value:+.2f} ±{value - interval[0]:.2f}"


if __name__ == "__main__":
    raise SystemExit(run_script(build_parser(), run))
