"""One self-contained HTML page about a run: training, levels, likelihood, map, samples.

Results that eval/latents.py and eval/perplexity.py wrote are shown as they are; what is not given is measured on
a few documents. The page says on how many.
"""

import argparse
import shlex
import sys
from pathlib import Path

from textvae.cli.common import add_runtime, load_model
from textvae.cli.evaluation import run_script, script_parser
from textvae.evaluation.report.inputs import read_run
from textvae.evaluation.report.measurements import CURVE_SHARE, MAP_SHARE
from textvae.evaluation.report.write import ReportOptions, make_report, write_page


def build_parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__)
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
    add_runtime(parser, batch_tokens=True)
    return parser


def run(arguments: argparse.Namespace) -> None:
    options = ReportOptions(
        shlex.join(["python", *sys.argv]),
        data=arguments.data,
        split=arguments.split,
        limit=arguments.limit,
        seed=arguments.seed,
        batch_tokens=arguments.batch_tokens,
        latents=arguments.latents,
        perplexity=tuple(arguments.perplexity),
    )
    trained = read_run(arguments.run)
    options.data_of(trained)
    report = make_report(trained, load_model(arguments, arguments.run), options)
    out = Path(arguments.out or trained.path / "report.html")
    write_page(report, out, Path(arguments.figures) if arguments.figures else None)
    print(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    raise SystemExit(run_script(build_parser(), run))
