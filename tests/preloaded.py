"""What processes that the tests fork have already: imports, and the tables of renamed weights that transformers makes
when a first model is loaded."""

import gc
from importlib import import_module

MODULES = (
    "pytest",
    "sacrebleu",
    "tensorboard",
    "yaml",
    "textvae.cli.evaluation",
    "textvae.evaluation.likelihood.perplexity",
    "textvae.training.loop",
)
gc.disable()  # looking for garbage, of which there is none yet, would take a third of the time
for name in MODULES:
    import_module(name)
import_module("textvae.cli.main").build_parser()  # which imports every command
import_module("transformers.conversion_mapping").get_checkpoint_conversion_mapping("bert")
gc.freeze()  # no forked process looks through what they share, and so copies it
gc.enable()
