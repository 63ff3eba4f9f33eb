"""Features of documents and their labels, for linear probes of what the latents know."""

from __future__ import annotations

import json

import numpy as np
import torch

from textvae.data.dataset import Documents
from textvae.data.document import EncodedDocument
from textvae.model.unit_transformer import segment_mean
from textvae.search.embed import batches
from textvae.text_vae import HierarchicalTextVAE


@torch.no_grad()
def document_features(
    model: HierarchicalTextVAE, documents: Documents, label: str, batch_tokens: int = 8192
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Every document's features [documents, D] by latent level and for `encoder_mean`, and its label.

    A lower level's feature is the mean over the document's units; `encoder_mean` is the mean of the pretrained
    sentence features. Raises ValueError naming a document that lacks the field `label`.
    """
    features: dict[str, list[np.ndarray]] = {name: [] for name in (*model.level_names, "encoder_mean")}
    labels: list[str] = []
    for members, batch in batches(model, documents, batch_tokens):
        for name, latents in model.latents(batch).items():
            features[name].append(segment_mean(latents.mean, latents.document, len(members)).cpu().numpy())
        sentences = segment_mean(model.sentence_features(batch), batch.levels[-1].document, len(members))
        features["encoder_mean"].append(sentences.cpu().numpy())
        labels.extend(_label(document, label) for document in members)
    return {name: np.concatenate(parts) for name, parts in features.items()}, np.asarray(labels)


def _label(document: EncodedDocument, name: str) -> str:
    value = document.label if name == "label" else json.loads(document.extra).get(name)
    if value is None:
        raise ValueError(f"document '{document.id}' has no field '{name}' to predict; name another with --label")
    return str(value)
