"""How fast and in how much memory text is written: sentences side by side against one after the other.

Weights are random, latents drawn, and every sentence runs to its longest, so that all ways write equally many tokens.

    OMP_NUM_THREADS=1 python benchmarks/writing_speed.py --sentences 50
    OMP_NUM_THREADS=1 python benchmarks/writing_speed.py --sentences 50 --decoder HuggingFaceTB/SmolLM2-135M-Instruct
    OMP_NUM_THREADS=1 python benchmarks/writing_speed.py --sentences 10 --documents 1000 --small --rows 127
"""

from __future__ import annotations

import argparse
import resource
import time

import torch
from transformers import AutoModelForCausalLM, BertConfig, LlamaConfig, PreTrainedModel

from textvae.config import DecoderConfig, EncoderConfig, ModelConfig, UnitConfig, to_dict
from textvae.model.vae import DocumentVAE, TextVAEConfig
from textvae.pretrained import resolve_backbone
from textvae.writing.decode import write_documents
from textvae.writing.operations import structured
from textvae.writing.options import SamplingOptions
from textvae.writing.plan import open_plan

HIERARCHY = ("document", "paragraph", "sentence")
TOKENS = 24
"""Of a sentence."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--decoder", metavar="NAME", help="pretrained decoder (default: 4 layers of 256, 8,192 pieces)")
    parser.add_argument("--small", action="store_true", help="2 layers of 32 and 256 pieces, for memory")
    parser.add_argument("--attention", help="as `decoder.attention`")
    parser.add_argument("--documents", type=int, default=1)
    parser.add_argument("--sentences", type=int, default=50, help="of a document, in paragraphs of five")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 10, 128], help="sentences side by side")
    return parser


def make_model(arguments: argparse.Namespace) -> DocumentVAE:
    torch.manual_seed(0)
    backbone: PreTrainedModel | None = None
    width, layers, pieces = (32, 2, 256) if arguments.small else (256, 4, 8192)
    architecture = LlamaConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        vocab_size=pieces,
    ).to_diff_dict() | {"model_type": "llama"}
    if arguments.decoder:
        backbone = AutoModelForCausalLM.from_pretrained(resolve_backbone(arguments.decoder), dtype=torch.float32)
        architecture = backbone.config.to_dict()
    encoder = BertConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    settings = ModelConfig(
        units=UnitConfig(width=32 if arguments.small else 256),
        encoder=EncoderConfig(name=""),
        decoder=DecoderConfig(attention=arguments.attention),
    )
    special = {"start_id": 0, "end_id": 1, "decoder_pad_id": 0, "encoder_pad_id": 0}
    encoder_config = encoder.to_diff_dict() | {"model_type": "bert"}
    return DocumentVAE(
        TextVAEConfig(HIERARCHY, to_dict(settings), encoder_config, architecture, special), decoder=backbone
    ).eval()


def main() -> None:
    arguments = build_parser().parse_args()
    model = make_model(arguments)
    plan = structured(open_plan(HIERARCHY), {"paragraph": [-(-arguments.sentences // 5)], "sentence": [5]})
    for rows in arguments.rows:
        options = SamplingOptions(max_sentence_tokens=TOKENS, batch_tokens=rows * (TOKENS + 1))
        began, worked = time.perf_counter(), time.process_time()
        written = write_documents(model, [plan] * arguments.documents, options, seed=0)
        seconds, worked = time.perf_counter() - began, time.process_time() - worked
        tokens = sum(len(words) + 1 for document in written for words in document.sentences)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"{rows} rows: {tokens} tokens in {seconds:.1f} s, {tokens / seconds:.0f} tokens/s "
            f"({tokens / worked:.0f} a second of the processors'), peak {peak:.0f} MiB",
            flush=True,
        )


if __name__ == "__main__":
    main()
