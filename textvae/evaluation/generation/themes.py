"""Documents that lend their themes, and what is written under them.

Shapes: T themes, Z size of a theme.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from accelerate import PartialState

from textvae.data.dataset import Documents
from textvae.data.loader import gather_in_order
from textvae.data.plan import spread
from textvae.text_vae import GeneratedDocument, HierarchicalTextVAE
from textvae.writing.operations import theme
from textvae.writing.options import SamplingOptions
from textvae.writing.plan import DocumentPlan


def choose_themes(documents: Documents, count: int) -> Documents:
    """`count` documents, one of every source, evenly spread. Raises ValueError where there are fewer than two."""
    first = {source: row for row, source in reversed(list(enumerate(documents.source_ids)))}
    rows = sorted(first.values())
    if len(rows) < 2 or count < 2:
        raise ValueError(
            f"a theme is told from others, so there must be two: --themes is {count}, and the data have {len(rows)} "
            "source documents"
        )
    return documents.select([rows[place] for place in spread(count, len(rows))])


def prior_themes(model: HierarchicalTextVAE, count: int, seed: int) -> np.ndarray:
    """[T, Z] themes drawn from the prior, which is N(0, I) at the top."""
    level = model.hierarchy.stack[model.theme_level]
    return np.random.default_rng(seed).standard_normal((count, level.latent_size), dtype=np.float32)


def write_under_themes(
    model: HierarchicalTextVAE,
    themes: np.ndarray,
    num: int,
    seed: int,
    options: SamplingOptions,
    process: PartialState | None = None,
) -> list[list[GeneratedDocument]]:
    """`num` documents of each of the themes [T, Z]: the theme is held, all else is drawn, the structure too.

    Of several processes each writes a share, and all return the same.
    """
    process = process or PartialState()
    own = range(process.process_index, len(themes), process.num_processes)
    plans = [theme(torch.from_numpy(themes[row]), model.config.hierarchy) for row in own for _ in range(num)]
    draws = [row * num + number for row in own for number in range(num)]
    written = model.write(plans, seed=seed, options=options, draws=draws) if plans else []
    written = [replace(document, plan=_on_cpu(document.plan)) for document in written]
    return gather_in_order((row, written[place * num : (place + 1) * num]) for place, row in enumerate(own))


def _on_cpu(plan: DocumentPlan) -> DocumentPlan:
    """Where another process can read it."""
    return replace(plan, z={name: z.cpu() for name, z in plan.z.items()})
