"""Likelihood of whole documents, reported per token, per word and per byte."""

from run_arguments import evaluation_parser, exit_code, write_json
from tqdm import tqdm

from textvae.checkpoint import load_run
from textvae.data.opening import open_documents
from textvae.likelihood.perplexity import elbo_perplexity, sampled_perplexity


def main() -> None:
    parser = evaluation_parser(__doc__)
    parser.add_argument("--estimator", choices=["elbo", "iwae", "smc"], default="elbo")
    parser.add_argument("--samples", type=int, default=16, metavar="K", help="for iwae and smc")
    arguments = parser.parse_args()
    model = load_run(arguments.model)
    documents = open_documents(arguments.data, model.processor, arguments.split, arguments.limit)
    if arguments.estimator == "elbo":
        report = elbo_perplexity(model, documents, arguments.seed)
    else:
        running = sampled_perplexity(model, documents, arguments.estimator, arguments.samples, arguments.seed)
        *_, report = tqdm(running, total=len(documents), unit="document")
    result = report.to_json()
    write_json(arguments.out, result)
    print(
        f"{result['documents']} documents: perplexity {result['perplexity_per_token']:.2f} per token, "
        f"{result['perplexity_per_word']:.2f} per word, {result['bits_per_byte']:.3f} bits per byte"
    )


if __name__ == "__main__":
    raise SystemExit(exit_code(main))
