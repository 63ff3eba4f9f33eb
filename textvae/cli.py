"""The `textvae` command: prepare, generate, interpolate, reconstruct, embed, search."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from textvae.building import sentence_feature_function
from textvae.checkpoint import load_run
from textvae.data.opening import open_documents
from textvae.data.preparation import PrepareOptions, prepare
from textvae.data.sources import FieldNames
from textvae.embedding import Index, embed_corpus
from textvae.planning import SamplingOptions
from textvae.text_vae import GeneratedDocument, HierarchicalTextVAE


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 with one line on standard error for what the user can mend."""
    parsed = build_parser().parse_args(arguments)
    try:
        parsed.command(parsed)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="textvae", description="Hierarchical variational autoencoders over documents")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_prepare(commands)
    _add_generate(commands)
    _add_interpolate(commands)
    _add_reconstruct(commands)
    _add_embed(commands)
    _add_search(commands)
    return parser


def _add_prepare(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("prepare", help="raw text -> segmented, tokenised Arrow data set")
    parser.add_argument(
        "source", help="jsonl, txt or parquet file or folder, Hub data set NAME[:CONFIG], or python-docs"
    )
    parser.add_argument("--out", required=True, metavar="DATA", help="folder to write")
    parser.add_argument("--encoder", default=PrepareOptions.encoder, metavar="NAME")
    parser.add_argument("--decoder", metavar="NAME", help="whose tokenizer to use; default: train a vocabulary")
    parser.add_argument("--vocabulary-size", type=int, default=PrepareOptions.vocabulary_size)
    parser.add_argument("--hierarchy", nargs="+", default=list(PrepareOptions.hierarchy), metavar="LEVEL",
                        help="levels, top first (default: document paragraph sentence)")  # fmt: skip
    parser.add_argument("--max-sentence-tokens", type=int, default=PrepareOptions.max_sentence_tokens)
    parser.add_argument("--max-document-sentences", type=int, help="cut longer documents into sections")
    parser.add_argument("--validation-fraction", type=float, default=PrepareOptions.validation_fraction)
    parser.add_argument("--test-fraction", type=float, default=PrepareOptions.test_fraction)
    parser.add_argument("--limit", type=int, help="read at most this many documents of each split")
    parser.add_argument("--num-proc", type=int, default=PrepareOptions.num_proc)
    parser.add_argument("--language", default=PrepareOptions.language)
    parser.add_argument("--seed", type=int, default=PrepareOptions.seed)
    for name in ("text", "id", "title", "label"):
        parser.add_argument(f"--{name}-field", default=getattr(FieldNames(), name), metavar="FIELD")
    parser.add_argument("--cache-features", action="store_true", help="store the frozen encoder's sentence features")
    parser.set_defaults(command=_prepare)


def _prepare(arguments: argparse.Namespace) -> None:
    options = PrepareOptions(
        source=arguments.source,
        out=arguments.out,
        encoder=arguments.encoder,
        decoder=arguments.decoder,
        vocabulary_size=arguments.vocabulary_size,
        hierarchy=tuple(arguments.hierarchy),
        max_sentence_tokens=arguments.max_sentence_tokens,
        max_document_sentences=arguments.max_document_sentences,
        validation_fraction=arguments.validation_fraction,
        test_fraction=arguments.test_fraction,
        limit=arguments.limit,
        num_proc=arguments.num_proc,
        language=arguments.language,
        seed=arguments.seed,
        fields=FieldNames(
            text=arguments.text_field,
            id=arguments.id_field,
            title=arguments.title_field,
            label=arguments.label_field,
        ),
        cache_features=arguments.cache_features,
    )
    prepare(options, sentence_feature_function(arguments.encoder) if arguments.cache_features else None)


def _add_generate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("generate", help="write documents, with a fixed theme if wanted")
    parser.add_argument("--model", required=True, metavar="RUN")
    theme = parser.add_mutually_exclusive_group()
    theme.add_argument("--theme-from", metavar="FILE", help="text file whose latents are held")
    theme.add_argument("--theme-seed", type=int, metavar="N", help="draw one theme, and hold it")
    parser.add_argument("--resample", metavar="LEVEL", help="with --theme-from: first level that is drawn anew")
    parser.add_argument("--num", type=int, default=1, help="documents to write (default: %(default)s)")
    parser.add_argument("--out", metavar="FILE.jsonl", help="write JSON lines instead of printing")
    _add_sampling(parser)
    parser.set_defaults(command=_generate)


def _generate(arguments: argparse.Namespace) -> None:
    if arguments.resample and not arguments.theme_from:
        raise ValueError("--resample needs a document to keep the rest of: give --theme-from FILE")
    model = load_run(arguments.model)
    options = _sampling(arguments)
    if arguments.theme_from:
        level = arguments.resample or _below_top(model)
        written = model.resample(
            _read(arguments.theme_from), level, arguments.num, seed=arguments.seed, options=options
        )
    else:
        theme = None
        if arguments.theme_seed is not None:
            theme = model.draw_theme(arguments.theme_seed)
        written = model.generate(theme, arguments.num, seed=arguments.seed, options=options)
    _show(written, arguments.out, [f"document {number + 1}" for number in range(len(written))])


def _add_interpolate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("interpolate", help="write documents on the way from one latent to another")
    parser.add_argument("--model", required=True, metavar="RUN")
    parser.add_argument("--from", dest="start", required=True, metavar="FILE")
    parser.add_argument("--to", dest="end", required=True, metavar="FILE")
    parser.add_argument("--steps", type=int, default=5, help="documents, both ends included (default: %(default)s)")
    parser.add_argument("--level", help="level whose latents move (default: the top); needs the same number of units")
    parser.add_argument("--out", metavar="FILE.jsonl")
    _add_sampling(parser)
    parser.set_defaults(command=_interpolate)


def _interpolate(arguments: argparse.Namespace) -> None:
    model = load_run(arguments.model)
    written = model.interpolate(
        _read(arguments.start), _read(arguments.end), arguments.steps, arguments.level,
        seed=arguments.seed, options=_sampling(arguments),
    )  # fmt: skip
    last = max(1, arguments.steps - 1)
    _show(written, arguments.out, [f"{number / last:.2f} of the way" for number in range(arguments.steps)])


def _add_reconstruct(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("reconstruct", help="text -> latents -> text, greedily")
    parser.add_argument("--model", required=True, metavar="RUN")
    parser.add_argument("file", metavar="FILE")
    parser.set_defaults(command=_reconstruct)


def _reconstruct(arguments: argparse.Namespace) -> None:
    print(load_run(arguments.model).reconstruct(_read(arguments.file)).text)


def _add_embed(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("embed", help="embed a corpus at every level")
    parser.add_argument("source", help="prepared data set, or any source of `textvae prepare`")
    parser.add_argument("--model", required=True, metavar="RUN")
    parser.add_argument("--out", required=True, metavar="INDEX", help="folder to write")
    parser.add_argument("--split", default="train", help="split of the source (default: %(default)s)")
    parser.add_argument("--limit", type=int)
    parser.set_defaults(command=_embed)


def _embed(arguments: argparse.Namespace) -> None:
    model = load_run(arguments.model)
    documents = open_documents(arguments.source, model.processor, arguments.split, arguments.limit)
    counts = embed_corpus(model, documents, arguments.out, str(Path(arguments.model)))
    print(f"embedded into {arguments.out}: " + ", ".join(f"{count} {name}s" for name, count in counts.items()))


def _add_search(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("search", help="find units of an embedded corpus by meaning")
    parser.add_argument("index", metavar="INDEX")
    parser.add_argument("query")
    parser.add_argument("-k", type=int, default=10, help="results (default: %(default)s)")
    parser.add_argument("--level", help="level to search (default: the top)")
    parser.set_defaults(command=_search)


def _search(arguments: argparse.Namespace) -> None:
    index = Index(arguments.index)
    for rank, found in enumerate(
        index.search(load_run(index.run), arguments.query, arguments.level, arguments.k), start=1
    ):
        title = f" ({found.title})" if found.title else ""
        print(f"{rank:>3}. {found.score:.3f}  {found.document}{title}\n     {_shortened(found.text, 200)}")


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--temperature", type=float, default=SamplingOptions.temperature, help="of the words; 0 is greedy"
    )
    parser.add_argument("--top-p", type=float, default=0.9)
    parser.add_argument("--latent-temperature", type=float, default=SamplingOptions.latent_temperature)


def _sampling(arguments: argparse.Namespace) -> SamplingOptions:
    return SamplingOptions(
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        latent_temperature=arguments.latent_temperature,
    )


def _below_top(model: HierarchicalTextVAE) -> str:
    if model.level_names[:1] != tuple(model.config.hierarchy[:1]) or len(model.config.hierarchy) < 2:
        raise ValueError("this model has no latent for whole documents to hold; name a level with --resample")
    return model.config.hierarchy[1]


def _read(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 at byte {error.start}; convert it first") from None


def _show(written: Sequence[GeneratedDocument], out: str | None, headings: Sequence[str]) -> None:
    if out is None:
        for heading, document in zip(headings, written, strict=True):
            print(f"--- {heading} ---\n{document.text}\n")
        return
    with Path(out).open("w", encoding="utf-8") as file:
        for number, document in enumerate(written):
            record = {"id": str(number), "text": document.text, "sentences": document.sentences,
                      "structure": document.structure}  # fmt: skip
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rsplit(" ", 1)[0] + " …"


if __name__ == "__main__":
    raise SystemExit(main())
