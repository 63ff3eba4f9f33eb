"""What a new run begins with: another's weights, topics that stand for words, components of the encoder's states."""

from __future__ import annotations

import torch
from accelerate import Accelerator

from textvae.build import encoder_fingerprint
from textvae.config import Config
from textvae.data.dataset import Documents, PreparedSplit
from textvae.data.loader import gather_in_order, walk
from textvae.data.plan import spread
from textvae.model.backbone import output_layer
from textvae.runs import has_learned_bag
from textvae.text_vae import HierarchicalTextVAE

COMPONENTS_FROM = 1000
"""Documents whose principal components a linear map starts from."""


def start(model: HierarchicalTextVAE, training: PreparedSplit, config: Config, accelerator: Accelerator) -> None:
    """Give a new model, on its device, what is to be had before the first step; the same in every process.

    Raises ValueError as `start_from` and `check_features` do.
    """
    other, topics = config.train.start_from, model.decoder.topic_head
    if other is not None:
        start_from(model, other, has_decoder=config.model.decoder.name is not None)
    check_features(model, training)
    if topics is not None:
        topics.set_unigram(torch.from_numpy(training.word_counts))
    if topics is not None and other is None and config.model.decoder.topic_start == "embeddings":
        topics.start_from(output_layer(model.decoder.backbone).weight)
    components = config.train.start_components
    if model.level_names and config.model.encoder.linear and (other is None if components is None else components):
        start_linear(model, training.documents, config.data.micro_batch_tokens, accelerator)


def start_from(model: HierarchicalTextVAE, name: str, *, has_decoder: bool) -> None:
    """Give `model` the weights of the run `name`; ValueError names the first that do not fit.

    Beside a bag of words no decoder ran: from such a run, a model that has one of its own (`has_decoder`) keeps it.
    """
    weights = HierarchicalTextVAE.from_pretrained(name).state_dict()
    own = model.state_dict()
    unfit = [
        key
        for key in own.keys() | weights.keys()
        if key not in own or key not in weights or own[key].shape != weights[key].shape
    ]
    if unfit:
        raise ValueError(
            f"train.start_from: the model of {name} has another shape ({', '.join(sorted(unfit)[:3])}, "
            f"{len(unfit)} in all); give this run the same model section"
        )
    if has_decoder and has_learned_bag(name):
        weights |= {key: value for key, value in own.items() if key.startswith("decoder.backbone.")}
    model.load_state_dict(weights)


def check_features(model: HierarchicalTextVAE, training: PreparedSplit) -> None:
    """Raises ValueError when the data hold cached features of another encoder than the model's, or of one that is
    trained."""
    if not (model.level_names and training.has_features):
        return
    own, cached = encoder_fingerprint(model), training.feature_encoder
    if own is None or cached is None or not own.computes_as(cached):
        encoder = "trained" if own is None else str(own)
        raise ValueError(
            f"the data hold cached features of {cached or 'an unknown encoder'}, but the model's encoder is {encoder}; "
            "prepare the data without --cache-features, or with the model's encoder"
        )


@torch.no_grad()
def start_linear(model: HierarchicalTextVAE, documents: Documents, batch_tokens: int, accelerator: Accelerator) -> None:
    """Start the top level's linear map from the principal components of at most `COMPONENTS_FROM` of the documents,
    spread over the data; all processes read some of them."""
    top = model.level_names[0]
    found = []
    chosen = documents.select(spread(COMPONENTS_FROM, len(documents)))
    for group in walk(chosen, model.layout, model.device, batch_tokens=batch_tokens, process=accelerator):
        features = model.features(group.batch)
        assert features is not None
        of_units = group.batch.levels[group.batch.level_number(top)].document
        by_document = features[top].states.split(of_units.bincount(minlength=len(group.batch)).tolist())
        found += [(row, states.cpu()) for row, states in zip(group.rows, by_document, strict=True)]
    model.hierarchy.stack[top].start_linear(torch.cat(gather_in_order(found)).to(model.device))
