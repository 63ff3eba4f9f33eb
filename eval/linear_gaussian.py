"""Gap of the likelihood estimators to the exact value, on the linear-Gaussian hierarchy of the tests.

    python eval/linear_gaussian.py --out FILE.json

Takes three minutes on one core, and prints a Markdown table: nats between the truth and the estimate, mean
and standard error over runs.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.linear_gaussian import GaussianDocument, LinearGaussianHierarchy, document
from textvae.evaluation.likelihood import LikelihoodEstimate, elbo, iwae, smc

COUPLINGS = {"weak": 0.08, "medium": 0.3, "strong": 0.6}
SENTENCES = (3, 10, 50, 200)
SAMPLES = (16, 64, 256)


def informed_smc(doc: GaussianDocument, samples: int) -> LikelihoodEstimate:
    return smc(replace(doc, sibling_informed=True), samples, doc.seed)


ESTIMATORS: dict[str, Callable[[GaussianDocument, int], LikelihoodEstimate]] = {
    "elbo": elbo,
    "iwae": iwae,
    "smc, filtering": lambda doc, samples: smc(doc, samples, doc.seed, target="filtering"),
    "smc, annealed": lambda doc, samples: smc(doc, samples, doc.seed, target="annealed"),
    "smc": lambda doc, samples: smc(doc, samples, doc.seed),
    "smc, sibling-informed": informed_smc,
}


def measure(model: LinearGaussianHierarchy, documents: int, runs: int) -> list[dict[str, float | str]]:
    """One row per estimator and number of samples: gap and its standard error over all runs."""
    gaps: dict[tuple[str, int], list[float]] = {}
    for number in range(documents):
        base = document(model, number, seed=0)
        truth = model.log_likelihood(base.observation)
        for run in range(runs):
            # Noise is keyed by the seed, which must differ between documents too.
            doc = replace(base, seed=number * runs + run)
            for name, estimator in ESTIMATORS.items():
                for samples in SAMPLES:
                    estimate = estimator(doc, samples).log_likelihood
                    gaps.setdefault((name, samples), []).append(truth - estimate)
    rows: list[dict[str, float | str]] = []
    for (name, samples), values in gaps.items():
        gap = torch.tensor(values)
        error = gap.std().item() / len(values) ** 0.5
        rows.append({"estimator": name, "samples": samples, "gap": gap.mean().item(), "standard_error": error})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dims", type=int, nargs="+", default=[4, 3, 2], help="latent size per level, top first")
    parser.add_argument("--documents", type=int, default=4)
    parser.add_argument("--runs", type=int, default=5, help="noise seeds per document")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    print("| coupling | sentences | estimator |" + "".join(f" K = {samples} |" for samples in SAMPLES))
    print("|---|---|---|" + "---|" * len(SAMPLES))
    for coupling, strength in COUPLINGS.items():
        for sentences in SENTENCES:
            model = LinearGaussianHierarchy(sentences, strength, tuple(args.dims), observed=max(args.dims))
            measured = measure(model, args.documents, args.runs)
            rows += [{"coupling": coupling, "sentences": sentences, **row} for row in measured]
            for name in ESTIMATORS:
                cells = [f"{r['gap']:.2f} ± {r['standard_error']:.2f}" for r in measured if r["estimator"] == name]
                print(f"| {coupling} | {sentences} | {name} | " + " | ".join(cells) + " |", flush=True)
    args.out.write_text(json.dumps({"dims": args.dims, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
