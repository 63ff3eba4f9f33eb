"""Hierarchical variational autoencoders over documents."""
