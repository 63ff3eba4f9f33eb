"""Search on judged queries in BEIR's layout: the model's levels, by latents and by words, beside the mean of the
pretrained encoder's states, its principal components in as many dimensions as the document latent has, and BM25.

Titles are read by BM25 alone, there too where it is part of a hybrid. The corpus is held in memory with its features.
"""

import argparse

from textvae.cli.common import add_model, load_model
from textvae.cli.evaluation import evaluation_process, run_script, script_parser, write_result
from textvae.cli.source_options import add_source_options, open_source
from textvae.evaluation.retrieval import MEASURES, rank, read_judged, score


def build_parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__)
    parser.add_argument("--corpus", required=True, metavar="C.jsonl", help="documents: _id, text")
    parser.add_argument("--queries", required=True, metavar="Q.jsonl", help="queries: _id, text")
    parser.add_argument("--qrels", required=True, metavar="R.tsv", help="query, document, relevance")
    parser.add_argument("--out", required=True, metavar="FILE.json", help="where the result is written")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: %(default)s)")
    add_source_options(parser)
    add_model(parser, batch_tokens=True)
    return parser


def run(arguments: argparse.Namespace) -> None:
    process = evaluation_process(arguments.device)
    if process.num_processes > 1:
        raise ValueError("eval/retrieval.py runs in one process: start it without accelerate launch")
    model = load_model(arguments)
    if not model.level_names:
        raise ValueError(f"'{arguments.model}' is a plain language model: it has no latents to search")
    documents = open_source(arguments, arguments.corpus, model, "train")
    judged = read_judged(arguments.queries, arguments.qrels, documents.ids)
    systems = {}
    print(f"{len(judged.queries)} queries, {len(documents)} documents")
    print(f"{'':30}{'dims':>6}" + "".join(f"{name:>24}" for name in MEASURES))
    for name, dims, scores in rank(model, arguments.model, documents, judged.queries, arguments.batch_tokens):
        found = systems[name] = score(judged, documents.ids, scores, dims, arguments.seed)
        cells = (f"{found.values[m]:.3f} [{found.intervals[m][0]:.3f}, {found.intervals[m][1]:.3f}]" for m in MEASURES)
        print(f"{name:30}{dims or '-':>6}" + "".join(f"{cell:>24}" for cell in cells), flush=True)
    result = {
        name: {**found.values, "dims": found.dims, "intervals": found.intervals} for name, found in systems.items()
    }
    write_result(
        arguments.out,
        {"queries": len(judged.queries), "documents": len(documents), "seed": arguments.seed, "systems": result},
    )


if __name__ == "__main__":
    raise SystemExit(run_script(build_parser(), run))
