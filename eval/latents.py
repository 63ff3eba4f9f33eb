"""What the latents of every level carry: rates, active units, mutual information, shuffle tests, payoff."""

from dataclasses import asdict

from run_arguments import evaluation_parser, exit_code, write_json

from textvae.checkpoint import load_run
from textvae.data.opening import open_documents
from textvae.diagnostics import LatentDiagnostics
from textvae.likelihood.perplexity import document_groups

COLUMNS = "{:<12}{:>6}{:>8}{:>8}{:>12}{:>14}{:>10}{:>18}{:>9}"


def main() -> None:
    parser = evaluation_parser(__doc__)
    arguments = parser.parse_args()
    model = load_run(arguments.model)
    if not model.level_names:
        raise ValueError(f"'{arguments.model}' is a plain language model: it has no latents to examine")
    documents = open_documents(arguments.data, model.processor, arguments.split, arguments.limit)
    batches = [model.batch(members) for members in document_groups(documents, 8192)]
    diagnostics = LatentDiagnostics(model, batches, arguments.seed)
    levels = {name: diagnostics.level(name) for name in model.level_names}
    write_json(arguments.out, {"levels": {name: asdict(level) for name, level in levels.items()}})
    names = (
        "level",
        "dims",
        "units",
        "active",
        "rate/unit",
        "rate/document",
        "MI",
        "shuffle +NLL/unit",
        "payoff",
    )
    print(COLUMNS.format(*names))
    for name, level in levels.items():
        payoff = "-" if level.payoff is None else f"{level.payoff:.2f}"
        print(COLUMNS.format(
            name, level.dims, level.units, level.active_units, f"{level.rate_per_unit:.2f}",
            f"{level.rate_per_document:.2f}", f"{level.mutual_information:.2f}",
            f"{level.nll_increase_when_shuffled:+.2f}", payoff,
        ))  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
