"""Hierarchical variational autoencoders over documents."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from textvae.text_vae import HierarchicalTextVAE

__version__ = "0.1.0"
__all__ = ["HierarchicalTextVAE"]


def __getattr__(name: str) -> Any:
    """The model is imported when it is first asked for: that takes seconds, and preparing data does without it."""
    if name != "HierarchicalTextVAE":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from textvae.text_vae import HierarchicalTextVAE

    return HierarchicalTextVAE
