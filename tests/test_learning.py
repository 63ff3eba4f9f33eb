"""Four documents can be learned by heart, whatever the hierarchy."""

import pytest
import tiny
import torch

from textvae.model.noise import KeyedNoise
from textvae.model.vae import DocumentVAE
from textvae.training.objective import elbo_terms

STEPS = 70
CASES = [
    (tiny.DOCUMENT, (), "document"),
    (tiny.DOCUMENT, ("document",), "document"),
    (tiny.DOCUMENT, ("sentence",), "sentence"),
    (tiny.DOCUMENT, ("document", "sentence"), "sentence"),
    (tiny.DOCUMENT, tiny.DOCUMENT, "sentence"),
    (tiny.FOUR, tiny.FOUR, "paragraph"),
]


@pytest.mark.parametrize(("hierarchy", "levels", "context"), CASES, ids=str)
def test_four_documents_can_be_learned(hierarchy: tuple[str, ...], levels: tuple[str, ...], context: str) -> None:
    """The bound on log p(text, structure), all rates paid in full, from chance to far above it."""
    torch.manual_seed(0)
    vae = DocumentVAE(tiny.config(levels, hierarchy, context=context, context_tokens=100, encoder_trainable=True))
    batch = tiny.batch_of(vae, tiny.documents(hierarchy))
    optimizer = torch.optim.AdamW(vae.parameters(), lr=1e-2)
    nats = []
    for step in range(STEPS):
        terms = elbo_terms(vae.train()(batch, KeyedNoise(0, step)), batch)
        nats.append(float(terms.negative_elbo.sum().detach()) / batch.num_tokens)
        rates = sum(terms.rate.values(), torch.zeros(4)).sum()
        loss = terms.distortion_tokens.sum() + terms.distortion_structure.sum() + min(1.0, step / STEPS) * rates
        (loss / batch.num_tokens).backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert sum(nats[-5:]) / 5 < 1.2, "guessing words evenly costs 3.1 nats"
    assert nats[0] > 3
