"""Hierarchical variational autoencoders over documents."""

from textvae.text_vae import HierarchicalTextVAE

__version__ = "0.1.0"
__all__ = ["HierarchicalTextVAE"]
