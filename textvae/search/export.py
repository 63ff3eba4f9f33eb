"""The half of a model that encodes, in a folder of its own: what another program needs to have its vectors.

FOLDER/config.json, model.safetensors     the model without its decoder, whose topics stay
FOLDER/processor.json, ..._tokenizer/     text -> tokens
FOLDER/embedding.json                     the level that is embedded; mean and deviation of its units in a corpus
FOLDER/checksums.json                     SHA-256 of all of these
FOLDER/modules.json, README.md, ...       how sentence-transformers loads it (`search.sentence_module`)

Shapes: Z latent size.
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from textvae.atomic import write_json
from textvae.config import to_dict
from textvae.damage import CHECKSUMS_FILE, checksums, read_json_object, reading, verify
from textvae.data.text.processor import DECODER_FOLDER, ENCODER_FOLDER, PROCESSOR_FILE, DocumentProcessor
from textvae.model.vae import TextVAEConfig
from textvae.search.embedder import TextEmbedder
from textvae.search.storage import LevelDescription
from textvae.text_vae import HierarchicalTextVAE

EMBEDDING_FILE, WEIGHTS_FILE = "embedding.json", "model.safetensors"
MODULE = "textvae.search.sentence_module.LatentModule"
NORMALIZE = "sentence_transformers.base.modules.normalize.Normalize"
ENCODING = ("encoder.", "bottom_up.", "hierarchy.", "decoder.topic_head.")
"""What the weights' names begin with that latents are inferred with."""
_AGAIN = "export it again with textvae export-encoder"

README = """---
library_name: sentence-transformers
tags: [sentence-transformers, textvae]
---
Latents of level `{level}` ({dims} dimensions) of a hierarchical variational autoencoder over documents, from its
encoder half. Needs the package textvae; a text is read whole, however long.

    from sentence_transformers import {kind}
    model = {kind}("FOLDER", trust_remote_code=True)    # the code is textvae's, none lies in this folder
    vectors = model.encode(["A first document ...", "A second ..."])    # {shape}
"""


@dataclass(frozen=True)
class Embedding:
    """What `embedding.json` says."""

    level: str
    corpus: LevelDescription | None


def export_encoder(embedder: TextEmbedder, folder: str | Path) -> None:
    """Write what makes `embedder`'s vectors into `folder`, which is created, as a model of sentence-transformers: a
    SentenceTransformer of whole documents, a MultiVectorEncoder of the units of a lower level, whose vectors are of
    length 1 there."""
    folder = Path(folder)
    save_encoder(embedder, folder)
    single = embedder.level == embedder.model.config.hierarchy[0]
    kind = "SentenceTransformer" if single else "MultiVectorEncoder"
    modules = [{"idx": 0, "name": "0", "path": "", "type": MODULE}]
    if not single:  # scored by inner products
        modules.append({"idx": 1, "name": "1", "path": "1_Normalize", "type": NORMALIZE})
        (folder / "1_Normalize").mkdir(exist_ok=True)
        write_json(folder / "1_Normalize" / "config.json", {"module_input_name": "token_embeddings"})
    write_json(folder / "modules.json", modules)
    similarity = "cosine" if single else "maxsim"
    write_json(folder / "config_sentence_transformers.json", {"model_type": kind, "similarity_fn_name": similarity})
    shape = "[2, Z]" if single else f"a list: [{embedder.level}s, Z] of each"
    card = README.format(level=embedder.level, dims=embedder.size, kind=kind, shape=shape)
    (folder / "README.md").write_text(card, encoding="utf-8")


def save_encoder(embedder: TextEmbedder, folder: Path) -> None:
    """Write what `load_exported` reads. The model stays as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    model = embedder.model
    config = copy.deepcopy(model.config)
    settings = config.model_config
    # A decoder without adapters, weights or a device.
    decoder = replace(settings.decoder, lora=None, trainable=None, save_frozen=True, packing=False)
    config.settings = to_dict(replace(settings, encoder=replace(settings.encoder, save_frozen=True), decoder=decoder))
    config.references = {}
    config.save_pretrained(folder)
    weights = {name: value.cpu().clone() for name, value in model.state_dict().items() if name.startswith(ENCODING)}
    save_file(weights, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    model.processor.save_pretrained(folder)
    write_json(folder / EMBEDDING_FILE, asdict(Embedding(embedder.level, embedder.corpus.get(embedder.level))))
    own = ("config.json", WEIGHTS_FILE, EMBEDDING_FILE, PROCESSOR_FILE, f"{ENCODER_FOLDER}/*", f"{DECODER_FOLDER}/*")
    write_json(folder / CHECKSUMS_FILE, checksums(folder, (path for name in own for path in folder.glob(name))))


def load_exported(folder: str | Path) -> TextEmbedder:
    """The embedder whose vectors `export_encoder` wrote, on the CPU; its model encodes, and can nothing else.

    Raises ValueError for a folder that holds none, or a damaged one.
    """
    folder = Path(folder)
    if not (folder / EMBEDDING_FILE).is_file():
        raise ValueError(f"'{folder}' holds no {EMBEDDING_FILE}: give a folder that textvae export-encoder wrote")
    verify(folder, read_json_object(folder / CHECKSUMS_FILE, _AGAIN), _AGAIN)
    values = read_json_object(folder / EMBEDDING_FILE, _AGAIN)
    try:
        described = TypeAdapter(Embedding).validate_python(values)
    except ValidationError as error:
        raise ValueError(f"'{folder / EMBEDDING_FILE}' is damaged ({error.errors()[0]['msg']}); {_AGAIN}") from None
    with reading(folder, _AGAIN):
        model = _without_decoder(TextVAEConfig.from_pretrained(folder), DocumentProcessor.from_pretrained(folder))
        weights = load_file(folder / WEIGHTS_FILE)
        if weights.keys() != model.state_dict().keys():
            raise ValueError(f"its weights are not those of the model that {EMBEDDING_FILE} is of")
        model.load_state_dict(weights)
    corpus = None if described.corpus is None else {described.level: described.corpus}
    return TextEmbedder(model.eval(), described.level, corpus)


def _without_decoder(config: TextVAEConfig, processor: DocumentProcessor) -> HierarchicalTextVAE:
    """A model of random weights with nothing behind its latents but, where the posterior sees words, their topics."""
    values = dict(config.decoder_config)
    with torch.device("meta"):
        backbone = AutoModelForCausalLM.from_config(AutoConfig.for_model(values.pop("model_type"), **values))
    model = HierarchicalTextVAE(config, decoder=backbone, processor=processor)
    for name in ("backbone", "structure", "conditioner", "prefix"):
        setattr(model.decoder, name, None)
    return model
