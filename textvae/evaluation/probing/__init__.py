"""Linear probes of what the latents know: `examples` of what is predicted; `classify` learns and tests it."""
