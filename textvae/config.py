"""Every knob of textvae: frozen dataclasses; `config_file` reads them from YAML and `section.key=value` overrides.

Unknown keys and values of the wrong type raise a `ValueError` that names the key and where it came from. This module
imports nothing of the package.
"""

from __future__ import annotations

import re
from dataclasses import field
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, PositiveInt, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from torch import nn

STRICT = ConfigDict(extra="forbid")
T = TypeVar("T")
Likelihood = Literal["decoder", "bag_of_words"]


@dataclass(frozen=True, config=STRICT)
class DataConfig:
    path: str = ""
    """Folder written by `textvae prepare`."""
    batch_tokens: PositiveInt = 8192
    """Predicted decoder tokens per optimiser step, over all processes and accumulation steps."""
    micro_batch_tokens: PositiveInt = 8192
    """Predicted decoder tokens per forward pass of one process; a longer document is a batch of its own."""
    num_workers: Annotated[int, Field(ge=0)] = 0
    """Processes that prepare batches ahead, for each process of training."""
    stream: str = ""
    """Source of the training documents in place of those of `path`: a folder of shards (jsonl, parquet, txt), a file or
    a Hub data set, which is read, segmented and tokenised while training, and never written. `path` is then prepared
    from a sample of it, with the options that it is read with, and gives tokenizers, hierarchy, word counts and the
    validation; what its other splits hold is left out of training. A frozen encoder runs in every step: its features
    are not cached. What a process of training reads depends on their number, which a resumed run must keep."""
    stream_buffer: PositiveInt = 2048
    """Documents (or sections of them) that each process holds to draw from, in its checkpoints as well. Shards are
    shuffled, and this is how far documents of one shard get apart."""


@dataclass(frozen=True, config=STRICT)
class LoraConfig:
    """Low-rank adapters beside the linear layers of a pretrained backbone (Hu et al. 2021)."""

    rank: PositiveInt = 16
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """What an adapter computes is scaled by alpha / rank."""
    targets: tuple[str, ...] = ()
    """Names of the layers, or what they end in (`q_proj`); none means every linear layer but the head."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


Trainable = bool | Annotated[str, Field(pattern=r"^last [1-9][0-9]*$")]
"""Which weights of a backbone are trained: all, none, or those of its `last N` blocks and of what follows them."""


@dataclass(frozen=True, config=STRICT)
class EncoderConfig:
    name: str = "sentence-transformers/all-MiniLM-L6-v2"
    trainable: Trainable = False
    lora: LoraConfig | None = None
    """Adapters that are trained beside what `trainable` says."""
    save_frozen: bool = True
    """False leaves frozen weights out of saved models: they are loaded by `name` again, and must be the same."""
    layers: tuple[int, ...] = (-1,)
    """Hidden states that are mean-pooled and concatenated; 0 is the embedding layer, -1 the last."""
    words: bool = True
    """Whether the posterior sees the words of a unit (the decoder's tokens, as a bag) beside these states, through the
    latents' own path to the logits: it needs `decoder.logit_rank`."""
    linear: bool = True
    """Whether a linear map of these states, averaged over the unit, is part of the posterior's mean, beside what a
    perceptron makes of them: what search on text of another kind needs (EXPERIMENTS.md). Training starts that of the
    top level from the principal components of the training text's states, the others from 0."""


@dataclass(frozen=True, config=STRICT)
class DecoderConfig:
    name: str | None = None
    """Hub name, folder or textvae run to start from; None builds `architecture` from scratch."""
    architecture: dict[str, Any] = field(default_factory=dict)
    """`model_type` and further fields of a Hugging Face configuration; vocabulary and special tokens are
    filled in from the decoder tokenizer."""
    trainable: Trainable | None = None
    """None: all weights, or none of them where there are adapters."""
    lora: LoraConfig | None = None
    """Adapters that are trained beside what `trainable` says."""
    save_frozen: bool = True
    """False leaves frozen weights out of saved models: they are loaded by `name` again, and must be the same."""
    context: str = "sentence"
    """Level whose unit bounds what a token may see: the lowest level means the sentence itself only."""
    context_tokens: PositiveInt = 256
    """A sentence with this many tokens of context behind it starts a new stretch without context."""
    conditioning: Literal["none", "embedding", "layers"] = "layers"
    """Where the latents are added: nowhere, to every token embedding, or to the input of every block as well."""
    conditioning_blocks: PositiveInt | None = None
    """How many blocks, evenly spread, have latents added to their inputs under `layers`; None: all. In a deep decoder
    the additions of all blocks together move the state far at each step of training."""
    prefix_length: Annotated[int, Field(ge=0)] = 0
    """Keys and values that the latents put before every sentence in every block (memory, Li et al. 2020); for
    sentences that see only themselves."""
    conditioning_width: PositiveInt = 512
    logit_rank: Annotated[int, Field(ge=0)] = 128
    """Rank of the latents' own path to the logits, a topic model beside the decoder; 0 leaves it out."""
    topic_start: Literal["random", "embeddings"] = "random"
    """What that path's rows are before they are trained: drawn, or made of the decoder's output embeddings, which pays
    for a pretrained decoder (EXPERIMENTS.md)."""
    topic_weight: Annotated[float, Field(gt=0)] = 1.0
    """Power of that path's prediction beside the decoder's. The two are multiplied, and what both know counts twice: a
    decoder that knows its language wants less than 1 (EXPERIMENTS.md). A bag of words has the path alone, at 1."""
    topic_context: Annotated[float | None, Field(gt=0)] = None
    """Tokens of context that say as much of the topics as the latents do: behind c of them that path has the share
    topic_context / (topic_context + c) of its weight, as a Dirichlet prior has beside c counts. None: all of it."""
    word_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability of hiding an input token during training (Bowman et al. 2016)."""
    context_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability of hiding a whole preceding sentence from wider contexts during training (VHCR)."""
    gradient_checkpointing: bool = False
    packing: bool | None = None
    """Whether a row holds several sequences, kept apart by masks: hardly any padding, few large pieces of work of few
    shapes. None: where the decoder keeps to masks; but not those of wider contexts on a CPU, where attention to long
    rows costs more than it saves."""
    attention: str | None = None
    """Attention kernel as transformers names it (`sdpa`, `eager`, `flash_attention_2`); None lets it choose. On a
    CPU, `eager` is the fastest for short sentences."""

    @property
    def trained(self) -> Trainable:
        """`trainable` with its default filled in."""
        return self.lora is None if self.trainable is None else self.trainable


def check_level_name(name: str) -> None:
    """Raises ValueError unless a level may be called `name`, which is a key of modules, overrides and JSON files and a
    folder's name."""
    if not re.fullmatch(r"[^\W_][\w-]*", name) or hasattr(nn.ModuleDict(), name):
        raise ValueError(
            f"a level cannot be called '{name}': take letters, digits, - and _, a letter first, and no word that "
            "PyTorch's modules use themselves, such as 'keys' or 'type'"
        )


@dataclass(frozen=True, config=STRICT)
class LevelConfig:
    name: str
    latent_size: PositiveInt = 32
    prior: Literal["autoregressive", "independent"] = "autoregressive"
    posterior_sees_ancestors: bool = True
    initial_posterior_std: Annotated[float, Field(gt=0)] = 0.1

    def __post_init__(self) -> None:
        check_level_name(self.name)


@dataclass(frozen=True, config=STRICT)
class UnitConfig:
    """Transformers over the units of a level: the bottom-up contextualiser and the autoregressive prior."""

    width: PositiveInt = 256
    layers: PositiveInt = 2
    heads: PositiveInt = 4
    window: PositiveInt = 128
    """Units look this far; relative positions never exceed it, so any number of units works."""


@dataclass(frozen=True, config=STRICT)
class ModelConfig:
    levels: tuple[LevelConfig, ...] = (
        LevelConfig("document", 64),
        LevelConfig("paragraph", 32),
        LevelConfig("sentence", 32),
    )
    """Levels that carry a latent, top first; empty is a plain language model."""
    units: UnitConfig = UnitConfig()
    encoder: EncoderConfig = EncoderConfig()
    decoder: DecoderConfig = DecoderConfig()

    def __post_init__(self) -> None:
        names = [level.name for level in self.levels]
        if len(set(names)) != len(names):
            raise ValueError(f"levels {names} contain a name twice")
        decoder = self.decoder
        if names and decoder.conditioning == "none" and not decoder.prefix_length and not decoder.logit_rank:
            raise ValueError(
                "the latents reach no text: decoder.conditioning is none, and decoder.prefix_length and "
                "decoder.logit_rank are 0"
            )
        if names and self.encoder.words and not decoder.logit_rank:
            raise ValueError(
                "encoder.words shows the posterior words through the latents' own path to the logits, but "
                "decoder.logit_rank is 0: set it, or encoder.words=false"
            )
        if self.units.width % self.units.heads:
            raise ValueError(f"units.width {self.units.width} is not a multiple of units.heads {self.units.heads}")


@dataclass(frozen=True, config=STRICT)
class RatePolicy:
    """What keeps one level's rate from vanishing or exploding. Times are fractions of training."""

    beta: Annotated[float, Field(ge=0)] = 1.0
    anneal: Literal["constant", "linear", "cyclical"] = "linear"
    start: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Until here beta is `beta_start`."""
    end: Annotated[float, Field(ge=0, le=1)] = 0.5
    """From here (linear), or at the end of the last cycle (cyclical), beta is `beta`."""
    beta_start: Annotated[float, Field(ge=0)] = 0.0
    cycles: PositiveInt = 4
    free_bits: Annotated[float, Field(ge=0)] = 0.0
    """Nats per latent dimension, on the mean over units, below which the rate is not pushed down."""
    target_rate: Annotated[float | None, Field(gt=0)] = None
    """Nats per unit that a controller steers the rate to by scaling beta."""
    controller_gain: Annotated[float, Field(gt=0)] = 0.02

    def __post_init__(self) -> None:
        if self.anneal != "constant" and self.end <= self.start:
            raise ValueError(f"rate policy: end ({self.end}) must lie behind start ({self.start})")


@dataclass(frozen=True, config=STRICT)
class ObjectiveConfig:
    default: RatePolicy = RatePolicy()
    levels: dict[str, RatePolicy] = field(default_factory=dict)
    """Policies of single levels; a level not named here follows `default`, and in a file or an override a level states
    only what differs from it."""
    balance_until: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Fraction of training during which beta is shared out between levels by their rates (NVAE)."""
    likelihood: Likelihood = "decoder"
    """What scores the text. `bag_of_words` predicts the words of a sentence from its latents and those of its
    ancestors alone, the decoder frozen and not run: a warm start of the latents at a fraction of the cost."""
    bag_of_words: Annotated[float, Field(ge=0)] = 0.0
    """Weight of predicting all words from the top latent alone, beside the decoder (Zhao et al. 2017)."""
    similarity: Annotated[float, Field(ge=0)] = 0.0
    """Weight, beside a nat per predicted token, of keeping documents as alike as the pretrained encoder finds them: of
    the squared differences, over the pairs of a micro-batch, between the cosines of the top latent's standardised
    means, which it is searched by, and those of the encoder's states (similarity-preserving distillation, Tung & Mori
    2019). A document counts as often as it has tokens, so that short ones do not pay for it alone."""

    @property
    def uses_bag(self) -> bool:
        return self.likelihood == "bag_of_words" or self.bag_of_words > 0

    def policy(self, level: str) -> RatePolicy:
        return self.levels.get(level, self.default)


@dataclass(frozen=True, config=STRICT)
class TrainConfig:
    output: str = ""
    """Run folder; empty means runs/<name of the configuration file>."""
    steps: PositiveInt = 1000
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """For parameters that start from scratch."""
    pretrained_learning_rate: Annotated[float, Field(ge=0)] = 1e-4
    """For the pretrained encoder and decoder, where trainable."""
    adapter_learning_rate: Annotated[float, Field(ge=0)] = 4e-4
    """For adapters (LoRA)."""
    warmup_steps: Annotated[int, Field(ge=0)] = 50
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    final_learning_rate: Annotated[float, Field(ge=0, le=1)] = 0.1
    """Learning rate at the last step, as a fraction of the peak."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    max_gradient_norm: Annotated[float, Field(gt=0)] = 1.0
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """`auto`: bfloat16 where the device gains by it, else `no`. Processors are timed: with AVX-512 alone some are twice
    as fast in it and some half as fast, and those that emulate it take sixty times as long."""
    compile: bool = False
    """Whether the decoder's blocks are compiled (`torch.compile`) for the steps of training: validation and saved
    models are as without. Needs a C++ compiler, and pays in long runs (docs/benchmarks.md)."""
    seed: int = 0
    log_every: PositiveInt = 10
    validate_every: PositiveInt = 200
    validation_documents: PositiveInt = 200
    """At most this many, spread evenly over the split."""
    save_every: PositiveInt = 200
    keep_checkpoints: PositiveInt = 2
    """The last so many."""
    max_skipped_steps: PositiveInt = 20
    """Steps in a row whose loss or gradient may be not finite: they are skipped; so many stop the run."""
    start_from: str | None = None
    """Run or Hub name of a model of the same shape whose weights this one starts with; where it learned bags of words
    and this run names a decoder (`model.decoder.name`), all but the decoder's."""
    start_components: bool | None = None
    """Whether the linear map of the top level (`encoder.linear`) starts from the principal components of the training
    text's states; None: where `start_from` lends it no weights."""
    resume: bool = False
    """Continue from the run folder's last checkpoint; without one, start over."""
    tracker: Literal["tensorboard", "none"] = "tensorboard"


@dataclass(frozen=True, config=STRICT)
class Config:
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    train: TrainConfig = TrainConfig()

    def __post_init__(self) -> None:
        names = [level.name for level in self.model.levels]
        for name in self.objective.levels:
            if name not in names:
                raise ValueError(f"objective.levels names '{name}', but the model's levels are {names}")
        if not names and self.objective.uses_bag:
            raise ValueError("objective: a bag of words is predicted from latents, but model.levels is empty")


def parse(kind: type[T], values: Any, origin: str) -> T:
    """`values` (plain dicts, lists, scalars) as a configuration of class `kind`.

    Raises ValueError naming every offending key and `origin`.
    """
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        lines = []
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"]) or "(root)"
            kind_of_problem = "unknown key" if problem["type"] == "unexpected_keyword_argument" else problem["msg"]
            lines.append(f"  {key}: {kind_of_problem} (got {problem['input']!r})")
        raise ValueError(f"bad configuration in {origin}:\n" + "\n".join(lines)) from None


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain values, ready for YAML or JSON."""
    return TypeAdapter(type(config)).dump_python(config, mode="json")
