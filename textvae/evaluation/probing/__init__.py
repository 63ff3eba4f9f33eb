"""Linear probes of what the latents know: `examples` of what is predicted, those of `discourse` among them; `classify`
learns and tests it."""
