"""Likelihood of whole documents, reported per token, per word and per byte.

Under `accelerate launch`, the documents are shared out over the processes; the result is that of one process.
"""

from accelerate.utils import gather_object
from run_arguments import evaluation_parser, evaluation_process, exit_code, write_json
from tqdm import tqdm

from textvae.data.dataset import open_documents
from textvae.evaluation.likelihood.perplexity import perplexity_report, score_documents
from textvae.runs import load_run


def main() -> None:
    parser = evaluation_parser(__doc__)
    parser.add_argument("--estimator", choices=["elbo", "iwae", "smc"], default="elbo")
    parser.add_argument("--samples", type=int, default=16, metavar="K", help="for iwae and smc")
    parser.add_argument(
        "--batch-tokens", type=int, default=8192, metavar="N", help="scored at a time (default: %(default)s)"
    )
    arguments = parser.parse_args()
    process = evaluation_process()
    model = load_run(arguments.model).to(process.device)
    model.set_chunk_tokens(arguments.batch_tokens)
    documents = open_documents(arguments.data, model.processor, arguments.split, arguments.limit)
    choice = arguments.estimator, arguments.samples, arguments.seed
    mine = score_documents(
        model,
        documents,
        *choice,
        batch_tokens=arguments.batch_tokens,
        process=process.process_index,
        num_processes=process.num_processes,
    )
    share = -(-len(documents) // process.num_processes)
    bar = tqdm(mine, total=share, unit="document", leave=False, disable=not process.is_main_process)
    scores = gather_object(list(bar))
    if process.is_main_process:
        result = perplexity_report(scores, *choice)
        write_json(arguments.out, result)
        print(
            f"{result['documents']} documents: perplexity {result['perplexity_per_token']:.2f} per token, "
            f"{result['perplexity_per_word']:.2f} per word, {result['bits_per_byte']:.3f} bits per byte"
        )


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
