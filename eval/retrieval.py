"""Search on judged queries in BEIR's layout: the model's levels, by latents and by words, beside the mean of the
pretrained encoder's states, its principal components in as many dimensions as the document latent has, and BM25.

Titles are read by BM25 alone, there too where it is part of a hybrid. The corpus is held in memory with its features.
"""

import argparse
from functools import partial

from textvae.cli.common import add_model, load_model, logger
from textvae.cli.evaluation import evaluation_process, run_script, script_parser, sections, write_result
from textvae.cli.source_options import add_source_options, field_names, open_source
from textvae.data.dataset import ids_in
from textvae.evaluation.collection import CollectionFiles, beir_files, read_judged
from textvae.evaluation.retrieval import MEASURES, rank, score


def build_parser() -> argparse.ArgumentParser:
    parser = script_parser(__doc__)
    parser.add_argument("--corpus", metavar="C.jsonl", help="documents: _id, text")
    parser.add_argument("--queries", metavar="Q.jsonl", help="queries: _id, text")
    parser.add_argument("--qrels", metavar="R.tsv", help="query, document, relevance (BEIR), or TREC's four columns")
    parser.add_argument(
        "--beir", metavar="FOLDER", help="in place of these: corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv or qrels.tsv"
    )
    parser.add_argument("--qrels-split", metavar="SPLIT", help="of --beir (default: test)")
    parser.add_argument("--out", required=True, metavar="FILE.json", help="where the result is written")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: %(default)s)")
    add_source_options(parser)
    add_model(parser, batch_tokens=True)
    return parser


def named_files(arguments: argparse.Namespace) -> CollectionFiles:
    """Raises ValueError unless either --beir or all three files are given."""
    files = (arguments.corpus, arguments.queries, arguments.qrels)
    if arguments.beir is not None and not any(files):
        return beir_files(arguments.beir, arguments.qrels_split)
    if arguments.beir is not None or arguments.qrels_split is not None or not all(files):
        raise ValueError("give --beir FOLDER (with --qrels-split SPLIT), or --corpus, --queries and --qrels")
    return CollectionFiles(*files)


def run(arguments: argparse.Namespace) -> None:
    process = evaluation_process(arguments.device)
    if process.num_processes > 1:
        raise ValueError("eval/retrieval.py runs in one process: start it without accelerate launch")
    files = named_files(arguments)
    model = load_model(arguments)
    if not model.level_names:
        raise ValueError(f"'{arguments.model}' is a plain language model: it has no latents to search")
    documents = open_source(arguments, files.corpus, model, "train")
    # What became of the corpus must be seen.
    logger.warning("%s: %s", files.corpus, documents)
    known = partial(ids_in, files.corpus, "train", field_names(arguments))
    judged = read_judged(files.queries, files.qrels, set(documents.source_ids), known)
    if judged.missed:
        logger.warning(
            "%d judged documents, such as '%s', are not searched (no text, or --limit): they count, and are not found",
            len(judged.missed),
            min(judged.missed),
        )
    if without_text := len(judged.queries) - len(judged.asked):
        logger.warning("%d judged queries have no text: they find nothing, and count", without_text)
    searched = {"documents": len(documents), "sources": documents.num_sources}
    systems = {}
    print(f"{len(judged.queries)} queries, {sections(searched)}")
    print(f"{'':30}{'dims':>6}" + "".join(f"{name:>24}" for name in MEASURES))
    for name, dims, rankings in rank(model, arguments.model, documents, judged.asked, arguments.batch_tokens):
        found = systems[name] = score(judged, rankings, dims, arguments.seed)
        cells = (f"{found.values[m]:.3f} [{found.intervals[m][0]:.3f}, {found.intervals[m][1]:.3f}]" for m in MEASURES)
        print(f"{name:30}{dims or '-':>6}" + "".join(f"{cell:>24}" for cell in cells), flush=True)
    result = {
        name: {**found.values, "dims": found.dims, "intervals": found.intervals} for name, found in systems.items()
    }
    counts = {"queries": len(judged.queries), "queries_without_text": without_text}
    counts |= {**searched, "judged_not_searched": len(judged.missed)}
    write_result(arguments.out, {**counts, "seed": arguments.seed, "systems": result})


if __name__ == "__main__":
    raise SystemExit(run_script(build_parser(), run))
