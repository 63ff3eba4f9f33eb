"""Training: step, validate, log, save.

Shapes: L latent levels, Z_l latent size.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn

from textvae.building import build_model
from textvae.checkpoint import RunFolder
from textvae.config import Config, TrainConfig
from textvae.data.batch import DocumentBatch
from textvae.data.loading import BatchPlan, StepBatches, TrainingSteps, evaluation_batches, training_loader
from textvae.data.preparation import PreparedSplit, load_prepared
from textvae.model.noise import KeyedNoise
from textvae.objective import ElboTerms, Objective, elbo_terms
from textvae.schedules import learning_rate_factor
from textvae.text_vae import HierarchicalTextVAE

VALIDATION_NOISE = KeyedNoise(seed=0, step=-1)


@dataclass(frozen=True)
class Sums:
    """Sums over a global batch or a data split, raw nats: what every reported mean is made of."""

    tokens: float
    documents: float
    distortion_tokens: float
    distortion_structure: float
    rate_by_dimension: dict[str, Tensor]
    """[Z_l] by level."""
    units: dict[str, float]

    @property
    def rate(self) -> dict[str, float]:
        """Nats by level."""
        return {name: float(values.sum()) for name, values in self.rate_by_dimension.items()}

    @property
    def negative_elbo(self) -> float:
        return self.distortion_tokens + self.distortion_structure + math.fsum(self.rate.values())

    def report(self) -> dict[str, Any]:
        """Means, under the names of metrics.jsonl."""
        return {
            "nll_per_token": self.negative_elbo / self.tokens,
            "perplexity_per_token": math.exp(min(50.0, self.negative_elbo / self.tokens)),
            "distortion_tokens_per_token": self.distortion_tokens / self.tokens,
            "distortion_structure_per_token": self.distortion_structure / self.tokens,
            "rate_per_unit": {name: rate / self.units[name] for name, rate in self.rate.items()},
            "rate_per_document": {name: rate / self.documents for name, rate in self.rate.items()},
        }


class Totals:
    """Adds up batches on the device; one reduction over processes and one host sync at the end."""

    def __init__(self, model: HierarchicalTextVAE) -> None:
        self.levels = {level: model.hierarchy.stack[level].latent_size for level in model.level_names}
        size = 4 + len(self.levels) + sum(self.levels.values())
        self.values = torch.zeros(size, dtype=torch.float64, device=model.device)

    def add(self, batch: DocumentBatch, terms: ElboTerms, weight: float = 1.0) -> None:
        counts = [batch.num_tokens, len(batch)]
        units = [len(batch.levels[batch.level_number(name)]) for name in self.levels]
        distortion = [terms.distortion_tokens.detach().sum(), terms.distortion_structure.detach().sum()]
        numbers = torch.tensor([*counts, *units], dtype=torch.float64, device=self.values.device)
        rates = [terms.rate_by_dimension[name].detach() for name in self.levels]
        parts = [numbers, torch.stack(distortion), *rates]
        self.values += weight * torch.cat([part.double() for part in parts])

    def reduce(self, accelerator: Accelerator) -> Sums:
        values = accelerator.reduce(self.values, reduction="sum").float().cpu()
        num_levels = len(self.levels)
        head, rates = values[: 4 + num_levels].tolist(), values[4 + num_levels :]
        by_level = dict(zip(self.levels, rates.split(list(self.levels.values())), strict=True)) if num_levels else {}
        return Sums(
            tokens=head[0],
            documents=head[1],
            distortion_tokens=head[2 + num_levels],
            distortion_structure=head[3 + num_levels],
            rate_by_dimension=by_level,
            units=dict(zip(self.levels, head[2 : 2 + num_levels], strict=True)),
        )


def train(config: Config) -> Path:
    """Train as configured, or resume; returns the run folder."""
    settings = config.train
    folder = RunFolder(settings.output)
    accelerator = Accelerator(
        mixed_precision=settings.mixed_precision,
        log_with="tensorboard" if settings.tracker == "tensorboard" else None,
        project_dir=settings.output,
    )
    set_seed(settings.seed)
    training = load_prepared(config.data.path, "train")
    validation = load_prepared(config.data.path, "validation")
    if config.model.levels and config.model.encoder.trainable and training.has_features:
        raise ValueError(
            f"{config.data.path} holds cached features of a frozen encoder; prepare it without --cache-features "
            "to train the encoder, or set model.encoder.trainable=false"
        )
    if accelerator.is_main_process and not settings.resume:
        folder.begin(config)
    accelerator.wait_for_everyone()

    plain = build_model(config.model, training.processor)
    plain.set_chunk_tokens(config.data.micro_batch_tokens)
    optimizer = torch.optim.AdamW(parameter_groups(plain, settings), fused=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(settings, step))
    model, optimizer = accelerator.prepare(plain, optimizer)
    objective = Objective(config.objective, plain.level_names, settings.steps)
    progress = Progress(settings, accelerator, folder)
    accelerator.register_for_checkpointing(objective, scheduler, progress)
    first = folder.load_state(accelerator) if settings.resume else 0
    accelerator.init_trackers("tensorboard")

    data = TrainingSteps(
        training.read,
        BatchPlan(training.token_counts, config.data.batch_tokens, settings.seed),
        plain.layout,
        steps=settings.steps,
        micro_batch_tokens=config.data.micro_batch_tokens,
        process=accelerator.process_index,
        num_processes=accelerator.num_processes,
    )
    progress.begin(first, plain, len(training.token_counts))
    for step, part in enumerate(training_loader(data, first, config.data.num_workers), start=first):
        sums, gradient_norm = optimise(model, part, step, objective, optimizer, accelerator, settings)
        scheduler.step()
        progress.log(step + 1, sums, objective.weights(step), gradient_norm, float(scheduler.get_last_lr()[-1]))
        is_last = step + 1 == settings.steps
        if (step + 1) % settings.validate_every == 0 or is_last:
            scores = validate(plain, validation, settings.validation_documents, config.data, accelerator)
            if progress.validated(step + 1, scores) and accelerator.is_main_process:
                plain.save_pretrained(folder.path)
        if (step + 1) % settings.save_every == 0 or is_last:
            folder.save_state(accelerator, step + 1)
    accelerator.end_training()
    return folder.path


def optimise(
    model: nn.Module, part: StepBatches, step: int, objective: Objective, optimizer: torch.optim.Optimizer,
    accelerator: Accelerator, settings: TrainConfig,
) -> tuple[Sums, Tensor]:  # fmt: skip
    """One optimiser step over the global batch; returns its raw sums and the gradient's norm."""
    model.train()
    plain = accelerator.unwrap_model(model)
    weights = objective.weights(step)
    weights = {n: w.to(plain.device) if isinstance(w, Tensor) else w for n, w in weights.items()}
    noise = KeyedNoise(settings.seed, step)
    totals = Totals(plain)
    # Distributed gradients are averaged; the loss is a sum over processes, divided once by all tokens.
    scale = part.weight * accelerator.num_processes / part.global_tokens
    for number, batch in enumerate(part.batches):
        is_last = number == len(part.batches) - 1
        with nullcontext() if is_last else accelerator.no_sync(model):
            batch = batch.to(accelerator.device)
            terms = elbo_terms(model(batch, noise), batch)
            accelerator.backward(objective.loss(terms, weights) * scale)
        totals.add(batch, terms, part.weight)
    norm = accelerator.clip_grad_norm_(model.parameters(), settings.max_gradient_norm)
    optimizer.step()
    optimizer.zero_grad()
    sums = totals.reduce(accelerator)
    objective.update(step, {name: rate / sums.units[name] for name, rate in sums.rate_by_dimension.items()})
    return sums, norm


@torch.no_grad()
def validate(model: HierarchicalTextVAE, split: PreparedSplit, limit: int, data: Any, accelerator: Accelerator) -> Sums:
    """The one-sample ELBO over the first `limit` documents, with the same noise every time."""
    model.eval()
    totals = Totals(model)
    mine = range(accelerator.process_index, min(limit, len(split.token_counts)), accelerator.num_processes)
    for batch in evaluation_batches(split.read, mine, split.token_counts, model.layout, data.micro_batch_tokens):
        batch = batch.to(accelerator.device)
        with accelerator.autocast():
            output = model(batch, VALIDATION_NOISE)
        totals.add(batch, elbo_terms(output, batch))
    return totals.reduce(accelerator)


def parameter_groups(model: HierarchicalTextVAE, settings: TrainConfig) -> list[dict[str, Any]]:
    """Pretrained and new parameters with their own learning rates; no decay on vectors (biases, norms)."""
    config = model.config.model_config
    pretrained = set()
    if model.encoder is not None:
        pretrained |= set(model.encoder.backbone.parameters())
    if config.decoder.name is not None:
        pretrained |= set(model.decoder.backbone.parameters())
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            groups.setdefault((parameter in pretrained, parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": members,
            "lr": settings.pretrained_learning_rate if is_pretrained else settings.learning_rate,
            "weight_decay": settings.weight_decay if is_matrix else 0.0,
        }
        for (is_pretrained, is_matrix), members in sorted(groups.items(), key=lambda item: item[0], reverse=True)
    ]


class Progress:
    """What a person watching, metrics.jsonl and the tracker are told."""

    def __init__(self, settings: TrainConfig, accelerator: Accelerator, folder: RunFolder) -> None:
        self.settings = settings
        self.accelerator = accelerator
        self.folder = folder
        self.best = math.inf
        self.tokens_seen = 0.0
        self._since = (time.monotonic(), 0.0)

    def begin(self, first: int, model: HierarchicalTextVAE, documents: int) -> None:
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
        self.accelerator.print(
            f"levels {list(model.level_names) or 'none (plain language model)'}; {trainable / 1e6:.1f} M parameters "
            f"trained, {frozen / 1e6:.1f} M frozen; {documents} documents; steps {first} to {self.settings.steps}"
        )
        self._since = (time.monotonic(), self.tokens_seen)

    def log(self, step: int, sums: Sums, weights: Mapping[str, Any], norm: Tensor, learning_rate: float) -> None:
        self.tokens_seen += sums.tokens
        if not math.isfinite(sums.negative_elbo):
            raise ValueError(
                f"the loss is not finite at step {step}; lower train.learning_rate, or set train.mixed_precision=no"
            )
        if step % self.settings.log_every and step != self.settings.steps:
            return
        now = time.monotonic()
        speed = (self.tokens_seen - self._since[1]) / (now - self._since[0])
        left = (self.settings.steps - step) * sums.tokens / speed
        self._since = (now, self.tokens_seen)
        report = sums.report()
        betas = {name: float(torch.as_tensor(weight).mean()) for name, weight in weights.items()}
        record = {"step": step, "split": "train", "tokens_seen": int(self.tokens_seen), **report, "beta": betas,
                  "gradient_norm": float(norm), "learning_rate": learning_rate, "tokens_per_second": speed}  # fmt: skip
        rates = "  ".join(f"{name} {rate:.1f}" for name, rate in report["rate_per_unit"].items())
        self.accelerator.print(
            f"step {step}/{self.settings.steps}  nll/token {report['nll_per_token']:.3f}  "
            f"{'rate/unit ' + rates + '  ' if rates else ''}{speed:.0f} tokens/s  {_clock(left)} left",
            flush=True,
        )
        self._write(record)

    def validated(self, step: int, sums: Sums) -> bool:
        """Report a validation; true when it is the best so far."""
        report = sums.report()
        rates = "  ".join(f"{name} {rate:.1f}" for name, rate in report["rate_per_unit"].items())
        self.accelerator.print(
            f"validation at step {step}: perplexity/token {report['perplexity_per_token']:.1f}"
            f"{'  rate/unit ' + rates if rates else ''}",
            flush=True,
        )
        self._write({"step": step, "split": "validation", "tokens_seen": int(self.tokens_seen), **report})
        is_best = sums.negative_elbo / sums.tokens < self.best
        self.best = min(self.best, sums.negative_elbo / sums.tokens)
        self._since = (time.monotonic(), self.tokens_seen)
        return is_best

    def state_dict(self) -> dict[str, float]:
        return {"best": self.best, "tokens_seen": self.tokens_seen}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self.best = state["best"]
        self.tokens_seen = state["tokens_seen"]

    def _write(self, record: dict[str, Any]) -> None:
        if self.accelerator.is_main_process:
            self.folder.log(record)
        flat: dict[str, float] = {}
        for key, value in record.items():
            if isinstance(value, dict):
                flat |= {f"{record['split']}/{key}/{name}": number for name, number in value.items()}
            elif isinstance(value, int | float):
                flat[f"{record['split']}/{key}"] = value
        self.accelerator.log(flat, step=record["step"])


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
