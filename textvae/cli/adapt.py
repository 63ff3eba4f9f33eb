"""`textvae adapt`: a model whose latents know a corpus that it was not trained on."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from textvae.build import FrozenEncoder, encoder_fingerprint
from textvae.cli.evaluation import evaluation_process
from textvae.cli.source_options import SOURCES, add_source_options, field_names
from textvae.damage import read_json_object
from textvae.data.dataset import METADATA_FILE
from textvae.data.prepare.pipeline import PrepareOptions, prepare
from textvae.runs import RunFolder, load_run
from textvae.text_vae import HierarchicalTextVAE
from textvae.training.adaptation import AdaptationOptions, adaptation
from textvae.training.loop import train
from textvae.training.output import RunOutput


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "adapt",
        help="let a model's latents learn a corpus, to search it",
        description="Let the latents of a trained model learn another corpus, to search it: no labels, no queries, and "
        "no run of the decoder, which stays as it is (to write in the manner of a corpus, train on it). The same "
        "command goes on where it was stopped.",
    )
    parser.add_argument("source", help=SOURCES)
    parser.add_argument("--model", required=True, metavar="RUN", help="run folder or Hub name")
    parser.add_argument("--out", required=True, metavar="RUN", help="folder to write; the prepared text is in RUN/data")
    usual = AdaptationOptions()
    parser.add_argument("--steps", type=int, default=usual.steps, metavar="N", help="(default: %(default)s)")
    parser.add_argument(
        "--batch-tokens", type=int, default=usual.batch_tokens, metavar="N", help="of a step (default: %(default)s)"
    )
    parser.add_argument("--learning-rate", type=float, default=usual.learning_rate, help="(default: %(default)s)")
    parser.add_argument(
        "--similarity",
        type=float,
        default=usual.similarity,
        help="what a difference from the encoder's similarities costs beside a nat per token (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=usual.seed)
    parser.add_argument("--validation-fraction", type=float, default=PrepareOptions.validation_fraction)
    parser.add_argument("--num-proc", type=int, default=PrepareOptions.num_proc)
    add_source_options(parser, limit="the first N documents")
    parser.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> None:
    out, process = RunFolder(arguments.out), evaluation_process()
    model = load_run(arguments.model, "cpu")
    options = AdaptationOptions(
        arguments.steps, arguments.batch_tokens, arguments.learning_rate, arguments.similarity, arguments.seed
    )
    config = adaptation(model, arguments.model, out.path / "data", out.path, options)
    config = replace(config, train=replace(config.train, resume=out.config.is_file()))
    RunOutput(out.path).check(config)  # before anything is written beside another run
    process.wait_for_everyone()
    if process.is_main_process:
        prepare_for(model, arguments, out.path)
    del model
    process.wait_for_everyone()
    train(config)
    if process.is_main_process:
        print(f"adapted: {out.path}; next: textvae embed {out.path / 'data'} --model {out.path} --out INDEX")


def prepare_for(model: HierarchicalTextVAE, arguments: argparse.Namespace, out: Path) -> None:
    """Prepare the source for `model` in `out`/data, unless that was done before.

    Raises ValueError as `prepare` does, and where other text, or text read in another way, is there.
    """
    fingerprint = encoder_fingerprint(model)
    options = PrepareOptions(
        source=arguments.source,
        out=str(out / "data"),
        encoder=model.config.model_config.encoder.name,
        decoder=str(out),
        hierarchy=tuple(model.config.hierarchy),
        max_sentence_tokens=model.processor.max_sentence_tokens,
        max_document_sentences=arguments.max_document_sentences,
        validation_fraction=arguments.validation_fraction,
        test_fraction=0.0,
        limit=arguments.limit,
        num_proc=arguments.num_proc,
        language=arguments.language or model.processor.language,
        seed=arguments.seed,
        fields=field_names(arguments),
        cache_features=fingerprint is not None,
    )
    done = out / "data" / METADATA_FILE
    if done.is_file():
        begun = read_json_object(done, f"remove {done.parent}").get("options", {})
        if _compared(begun) != _compared(json.loads(json.dumps(asdict(options)))):
            raise ValueError(f"{out} was begun with another source, or one read in another way: choose another --out")
        return
    # The model may have no folder of its own; its processor is needed in the run in any case.
    model.processor.save_pretrained(out)
    if model.encoder is None or fingerprint is None:
        prepare(options)
    else:
        encoder = FrozenEncoder(model.encoder, fingerprint.name)
        prepare(options, encoder, encoder.fingerprint)


def _compared(options: dict[str, Any]) -> dict[str, Any]:
    """Without what may change when a command goes on: where the folder is, and how many processes read."""
    return {name: value for name, value in options.items() if name not in ("out", "decoder", "num_proc")}
