"""Steps of training by LangVAE on sentences: one JSON object on standard input, one on standard output.

Run by `benchmarks/run.py --against langvae`, in an environment that may be the library's own: it imports nothing of
textvae. Settings are those of the example in LangVAE's documentation, its cache of the encoder's states included; its
trainer takes a first epoch, which fills the cache, and a second, which is timed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from gauge import answer, now, peak_bytes
from langvae import LangVAE
from langvae.data_conversion.tokenization import TokenizedDataSet
from langvae.decoders import SentenceDecoder
from langvae.encoders import SentenceEncoder
from langvae.trainers import CyclicalScheduleKLThresholdTrainer, CyclicalScheduleKLThresholdTrainerConfig
from pythae.models.vae import VAEConfig

LATENT_SIZE = 128
TOKENS = 32
"""Of a sentence, at most."""
BATCH = 50
"""Sentences of a step."""


def main() -> None:
    asked = json.load(sys.stdin)
    texts = json.loads(Path(asked["texts"]).read_text(encoding="utf-8"))[: BATCH * asked["steps"]]
    device = asked["device"]
    decoder = SentenceDecoder(asked["decoder"], LATENT_SIZE, TOKENS, device=device)
    encoder = SentenceEncoder(asked["encoder"], LATENT_SIZE, decoder.tokenizer, caching=True, device=device)
    longest_first = sorted(texts, key=len, reverse=True)
    with tempfile.TemporaryDirectory() as folder:
        config = CyclicalScheduleKLThresholdTrainerConfig(
            output_dir=folder,
            num_epochs=2,
            learning_rate=1e-3,
            per_device_train_batch_size=BATCH,
            optimizer_cls="AdamW",
            no_cuda=device == "cpu",
        )
        trainer = CyclicalScheduleKLThresholdTrainer(
            LangVAE(VAEConfig(latent_dim=LATENT_SIZE), encoder, decoder),
            TokenizedDataSet(longest_first, decoder.tokenizer, TOKENS, caching=True),
            training_config=config,
        )
        trainer.prepare_training()
        trainer.train_step(1)
        began = now(device)
        trainer.train_step(2)
        seconds = now(device) - began
    peak = peak_bytes(device)
    lengths = [len(ids) for ids in decoder.tokenizer(texts)["input_ids"]]
    answer("langvae", device, seconds, peak, lengths, TOKENS)


if __name__ == "__main__":
    main()
