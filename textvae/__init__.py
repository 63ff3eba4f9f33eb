"""Hierarchical variational autoencoders over documents."""

from textvae.text_vae import HierarchicalTextVAE

__all__ = ["HierarchicalTextVAE"]
