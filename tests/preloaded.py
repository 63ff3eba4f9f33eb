"""What processes that the tests fork have already: imports, and the tables of renamed weights that transformers makes
when a first model is loaded."""

import pytest  # noqa: F401
import sacrebleu  # noqa: F401
import tensorboard  # noqa: F401
import yaml  # noqa: F401
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

import textvae.cli.evaluation
import textvae.evaluation.likelihood.perplexity
import textvae.training.loop  # noqa: F401
from textvae.cli.main import build_parser

build_parser()  # which imports every command
get_checkpoint_conversion_mapping("bert")
