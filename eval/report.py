"""One self-contained HTML page about a run: training, levels, likelihood, map, samples.

Results that eval/latents.py and eval/perplexity.py wrote are shown as they are; what is not given is measured on
a few documents. The page says on how many.
"""

import argparse
import shlex
import sys
from pathlib import Path

from run_arguments import exit_code

from textvae.evaluation.report.inputs import read_latents, read_perplexity, read_run
from textvae.evaluation.report.measurements import (
    CURVE_SHARE,
    MAP_SHARE,
    ReportDocuments,
    document_map,
    measure_latents,
    measure_perplexities,
    themed_samples,
)
from textvae.evaluation.report.page import Figures, Report, Sourced, render
from textvae.runs import load_run


def main() -> None:
    arguments = _parser().parse_args()
    if arguments.limit < 3:
        raise ValueError(f"--limit {arguments.limit} is too few: a map of the documents needs three")
    run = read_run(arguments.run)
    data = arguments.data or run.data
    if not arguments.data and not Path(data).exists():
        raise ValueError(
            f"the data of '{arguments.run}' are not at '{data}', where training had them; give --data DATA"
        )
    perplexities = [Sourced(read_perplexity(file), file) for file in arguments.perplexity]
    model = load_run(arguments.run)
    latents = None
    if arguments.latents:
        latents = Sourced(read_latents(arguments.latents, model.level_names), f"From {arguments.latents}.")
    documents = ReportDocuments.open(data, model, arguments.split, arguments.limit)
    seed = arguments.seed
    if not perplexities:
        found = measure_perplexities(model, documents, seed)
        perplexities = [Sourced(values, "measured here") for values in found]
    if latents is None and model.level_names:
        chosen = documents.measured
        latents = Sourced(measure_latents(model, chosen, seed), f"Measured here on {len(chosen)} documents.")
    report = Report(
        run=run,
        model=model,
        command=shlex.join(["python", *sys.argv]),
        data=data,
        split=arguments.split,
        perplexities=perplexities,
        latents=latents,
        map=document_map(model, documents.for_map, seed) if model.level_names else None,
        themes=themed_samples(model, documents.measured, seed),
    )
    out = Path(arguments.out or run.path / "report.html")
    out.parent.mkdir(parents=True, exist_ok=True)
    figures = Figures.of(report)
    out.write_text(render(report, figures), encoding="utf-8")
    if arguments.figures:
        figures.write(Path(arguments.figures))
    print(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB)")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", help="run folder that train.py wrote")
    parser.add_argument("--data", help="prepared data set, or any source of `textvae prepare` (default: the run's)")
    parser.add_argument("--split", default="validation", help="split of the data (default: %(default)s)")
    parser.add_argument(
        "--limit",
        type=int,
        default=50,
        metavar="N",
        help=f"documents for what is measured here (default: %(default)s); the map takes {MAP_SHARE} times as many, "
        f"the curves over K {CURVE_SHARE:g} times",
    )
    parser.add_argument("--latents", metavar="FILE.json", help="result of eval/latents.py")
    parser.add_argument(
        "--perplexity", nargs="+", default=[], metavar="FILE.json", help="results of eval/perplexity.py"
    )
    parser.add_argument("--out", metavar="FILE.html", help="default: RUN/report.html")
    parser.add_argument("--figures", metavar="FOLDER", help="where every figure is written as an SVG file as well")
    parser.add_argument("--seed", type=int, default=0, help="of noise and samples (default: %(default)s)")
    return parser


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
