"""The model: encoder, hierarchy, decoder."""
