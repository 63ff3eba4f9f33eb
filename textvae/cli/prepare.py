"""`textvae prepare`: raw text -> a prepared data set."""

from __future__ import annotations

import argparse

from textvae.cli.common import add_ray, ray_workers
from textvae.cli.source_options import SOURCES, add_source_options, field_names
from textvae.data.prepare.pipeline import PrepareOptions, prepare
from textvae.devices import DTYPES


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("prepare", help="raw text -> segmented, tokenised Arrow data set")
    parser.add_argument("source", help=SOURCES)
    parser.add_argument("--out", required=True, metavar="DATA", help="folder to write")
    parser.add_argument("--encoder", default=PrepareOptions.encoder, metavar="NAME")
    parser.add_argument("--decoder", metavar="NAME", help="whose tokenizer to use; default: train a vocabulary")
    parser.add_argument("--vocabulary-size", type=int, default=PrepareOptions.vocabulary_size)
    parser.add_argument(
        "--hierarchy",
        nargs="+",
        default=list(PrepareOptions.hierarchy),
        metavar="LEVEL",
        help="levels, top first (default: document paragraph sentence)",
    )
    parser.add_argument("--max-sentence-tokens", type=int, default=PrepareOptions.max_sentence_tokens)
    parser.add_argument("--validation-fraction", type=float, default=PrepareOptions.validation_fraction)
    parser.add_argument("--test-fraction", type=float, default=PrepareOptions.test_fraction)
    parser.add_argument("--num-proc", type=int, default=PrepareOptions.num_proc)
    parser.add_argument("--seed", type=int, default=PrepareOptions.seed)
    add_source_options(parser, language=PrepareOptions.language, limit="the first N documents of each split")
    parser.add_argument("--cache-features", action="store_true", help="store the frozen encoder's sentence features")
    running = parser.add_argument_group("running the encoder (--cache-features)")
    running.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: the accelerator, where there is one)")
    running.add_argument(
        "--dtype",
        choices=list(DTYPES),
        help="that it multiplies in (default: bfloat16 where the hardware does, or float32)",
    )
    parser.add_argument("--start-over", action="store_true", help="forget what was begun and not finished")
    add_ray(parser)
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
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
        fields=field_names(arguments),
        cache_features=arguments.cache_features,
    )
    workers = ray_workers(arguments)
    encoder = None
    if arguments.cache_features:
        from textvae.build import FrozenEncoder  # models take seconds to import

        encoder = FrozenEncoder.pretrained(arguments.encoder, arguments.device, DTYPES.get(arguments.dtype))
    elif arguments.device is not None or arguments.dtype is not None:
        raise ValueError(
            "--device and --dtype are the encoder's, which only --cache-features runs: add it, or drop them"
        )
    fingerprint = None if encoder is None else encoder.fingerprint
    prepare(options, encoder, fingerprint, workers=workers, start_over=arguments.start_over)
