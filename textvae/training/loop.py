"""Training: step, validate, log, save.

Shapes: L latent levels, Z_l latent size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from textvae.build import build_model, encoder_fingerprint
from textvae.config import Config, Likelihood, ObjectiveConfig, TrainConfig
from textvae.data.dataset import Documents, PreparedSplit, load_prepared
from textvae.data.loader import StepBatches, TrainingSteps, gather_in_order, training_loader, walk
from textvae.data.plan import BatchPlan, spread
from textvae.devices import best_precision, choose_device
from textvae.model.adapter import ADAPTER
from textvae.model.backbone import output_layer
from textvae.model.noise import KeyedNoise
from textvae.text_vae import HierarchicalTextVAE
from textvae.training.checkpoint import Checkpoints
from textvae.training.distributed import accumulating, check_sharding, distribute, gathered, whole, whole_weights
from textvae.training.objective import Objective, elbo_terms
from textvae.training.output import RunOutput
from textvae.training.progress import Gradients, Progress
from textvae.training.schedules import learning_rate_factor
from textvae.training.stopping import StopRequest, TrainingStopped
from textvae.training.sums import Sums, Totals

VALIDATION_NOISE = KeyedNoise(seed=0, step=-1)
COMPONENTS_FROM = 1000
"""Documents whose principal components a linear map starts from."""


def train(config: Config) -> Path:
    """Train as configured, or resume; returns the run folder.

    Raises TrainingStopped when a signal ended it, its state saved.
    """
    settings = config.train
    output = RunOutput(settings.output)
    output.check(config)
    resumes = settings.resume and output.folder.latest_step() is not None
    accelerator = _accelerator(settings)
    set_seed(settings.seed)
    training = load_prepared(config.data.path, "train")
    validation = load_prepared(config.data.path, "validation")
    if accelerator.is_main_process and not resumes:
        output.begin(config)
    if settings.resume and not resumes:
        accelerator.print(f"{settings.output} was stopped before its first checkpoint: it starts over", flush=True)
    accelerator.wait_for_everyone()

    plain = build_model(config.model, training.processor)
    if not resumes:
        if settings.start_from is not None:
            start_from(plain, settings.start_from)
        check_features(plain, training)
        if plain.decoder.topic_head is not None:
            plain.decoder.topic_head.set_unigram(torch.from_numpy(training.word_counts))
            if settings.start_from is None and config.model.decoder.topic_start == "embeddings":
                plain.decoder.topic_head.start_from(output_layer(plain.decoder.backbone).weight)
    freeze_unused(plain, config.objective)
    plain.set_chunk_tokens(config.data.micro_batch_tokens)
    plain.to(accelerator.device)
    is_fresh = not resumes and settings.start_from is None
    if is_fresh and plain.level_names and config.model.encoder.linear:
        start_linear(plain, training.documents, config.data.micro_batch_tokens, accelerator)
    layout = plain.layout  # asks what the decoder can do, while its weights are whole
    model = distribute(plain, accelerator)
    optimizer = torch.optim.AdamW(parameter_groups(plain, settings), fused=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(settings, step))
    optimizer = accelerator.prepare_optimizer(optimizer)
    objective = Objective(config.objective, plain.level_names, settings.steps)
    progress = Progress(settings, accelerator, output)
    checkpoints = Checkpoints(
        output.folder,
        accelerator,
        plain,
        {"optimizer": optimizer, "scheduler": scheduler, "objective": objective, "progress": progress},
        {"train": training.fingerprint, "validation": validation.fingerprint},
        settings.keep_checkpoints,
    )
    first = checkpoints.restore() if resumes else 0
    if accelerator.is_main_process:
        output.forget_after(first)
    # A tracker's steps after the checkpoint are logged again: without the mark every one of them would stand twice.
    accelerator.init_trackers("tensorboard", init_kwargs={"tensorboard": {"purge_step": first + 1} if resumes else {}})

    data = TrainingSteps(
        training.read,
        BatchPlan(training.token_counts, config.data.batch_tokens, settings.seed),
        layout,
        steps=settings.steps,
        micro_batch_tokens=config.data.micro_batch_tokens,
        process=accelerator.process_index,
        num_processes=accelerator.num_processes,
    )
    progress.begin(first, plain, len(training.token_counts))
    with StopRequest(accelerator) as stop:
        for step, part in enumerate(training_loader(data, first, config.data.num_workers), start=first):
            weights = objective.weights(step)
            measured = progress.is_due(step + 1)
            sums, gradients = optimise(
                model, part, step, objective, weights, optimizer, accelerator, settings, measured
            )
            scheduler.step()
            rate = float(scheduler.get_last_lr()[-1])
            progress.log(step + 1, sums, weights, gradients, rate, objective.collapsed(step))
            is_last = step + 1 == settings.steps
            if (step + 1) % settings.validate_every == 0 or is_last:
                scores = validate(
                    plain,
                    validation,
                    settings.validation_documents,
                    config.data.micro_batch_tokens,
                    accelerator,
                    config.objective.likelihood,
                )
                if progress.validated(step + 1, scores):
                    best = whole_weights(plain, accelerator.is_main_process)
                    if accelerator.is_main_process:
                        output.save_model(plain, best)
            stopped = stop.agreed()
            if (step + 1) % settings.save_every == 0 or is_last or stopped:
                progress.flush()
                checkpoints.save(step + 1)
            if stopped and not is_last:
                raise TrainingStopped(stopped, f"stopped after step {step + 1}, saved; go on with train.resume=true")
    accelerator.end_training()
    return output.folder.path


def _accelerator(settings: TrainConfig) -> Accelerator:
    check_sharding()
    device = choose_device()
    precision = settings.mixed_precision
    if precision == "auto":
        precision = best_precision(device)
    # The precision of a process's first run would otherwise be that of all its runs.
    AcceleratorState._reset_state()
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision=precision,
        log_with="tensorboard" if settings.tracker == "tensorboard" else None,
        project_dir=settings.output,
    )


def check_features(model: HierarchicalTextVAE, training: PreparedSplit) -> None:
    """Raises ValueError when the data hold cached features of another encoder than the model's, or of one that is
    trained."""
    if not (model.level_names and training.has_features):
        return
    own, cached = encoder_fingerprint(model), training.feature_encoder
    if own is None or cached is None or not own.computes_as(cached):
        encoder = "trained" if own is None else str(own)
        raise ValueError(
            f"the data hold cached features of {cached or 'an unknown encoder'}, but the model's encoder is {encoder}; "
            "prepare the data without --cache-features, or with the model's encoder"
        )


def optimise(
    model: nn.Module,
    part: StepBatches,
    step: int,
    objective: Objective,
    weights: Mapping[str, Tensor | float],
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    settings: TrainConfig,
    measured: bool,
) -> tuple[Sums, Gradients]:
    """One optimiser step over the global batch, with `weights` of the rates; returns its raw sums and, if
    `measured`, how large the gradients of the model's parts were."""
    model.train()
    plain = accelerator.unwrap_model(model)
    weights = {n: w.to(plain.device) if isinstance(w, Tensor) else w for n, w in weights.items()}
    noise = KeyedNoise(settings.seed, step)
    totals = Totals(plain)
    # Distributed gradients are averaged; the loss is a sum over processes, divided once by all tokens.
    scale = part.weight * accelerator.num_processes / part.global_tokens
    for number, batch in enumerate(part.batches):
        is_last = number == len(part.batches) - 1
        with nullcontext() if is_last else accumulating(model, accelerator):
            batch = batch.to(accelerator.device)
            with accelerator.autocast():
                output = model(batch, noise, **objective.asks)
            terms = objective.terms(output, batch)
            accelerator.backward(objective.loss(terms, weights) * scale)
        totals.add(batch, terms, part.weight)
    norm = whole(accelerator.clip_grad_norm_(model.parameters(), settings.max_gradient_norm))
    # Clipping has also undone the loss scaling of fp16; its own factor is taken back.
    clipped = (norm / settings.max_gradient_norm).clamp(min=1)
    ratios = {part: ratio * clipped for part, ratio in gradient_ratios(plain).items()} if measured else {}
    sums = totals.reduce(accelerator)
    # The same in every process: both were summed over all.
    is_finite = math.isfinite(sums.negative_elbo) and math.isfinite(norm)
    if is_finite or accelerator.scaler is not None:
        # With fp16's scaler the optimiser itself skips what is not finite, and scales the next loss less.
        optimizer.step()
    optimizer.zero_grad()
    if is_finite:
        objective.update(step, {name: rate / sums.units[name] for name, rate in sums.rate_by_dimension.items()})
    return sums, Gradients(norm, ratios, is_finite)


@torch.no_grad()
def validate(
    model: HierarchicalTextVAE,
    split: PreparedSplit,
    limit: int,
    batch_tokens: int,
    accelerator: Accelerator,
    likelihood: Likelihood = "decoder",
) -> Sums:
    """The one-sample ELBO over at most `limit` documents, spread over the split, the same with the same noise
    every time."""
    model.eval()
    totals = Totals(model)
    documents = split.documents.select(spread(limit, len(split)))
    with gathered(model):
        for group in walk(documents, model.layout, model.device, batch_tokens=batch_tokens, process=accelerator):
            with accelerator.autocast():
                output = model(group.batch, VALIDATION_NOISE, likelihood=likelihood)
            totals.add(group.batch, elbo_terms(output, group.batch))
    return totals.reduce(accelerator)


def gradient_ratios(model: HierarchicalTextVAE) -> dict[str, Tensor]:
    """Norm of the gradient over norm of the parameters, of every level and of the rest: what has
    stopped learning, or does not learn yet, shows here."""
    parts: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            level = next((level for level in model.level_names if f".{level}." in name), name.split(".")[0])
            parts.setdefault(level, []).append(parameter)
    return {
        part: whole(get_total_norm([p.grad for p in members if p.grad is not None])) / whole(get_total_norm(members))
        for part, members in parts.items()
    }


def freeze_unused(model: HierarchicalTextVAE, config: ObjectiveConfig) -> None:
    """Leave only parameters trainable that the objective reaches, as distributed training needs."""
    if config.likelihood == "bag_of_words":
        model.decoder.backbone.requires_grad_(False)
        if model.decoder.structure is not None:
            model.decoder.structure.requires_grad_(False)


def start_from(model: HierarchicalTextVAE, name: str) -> None:
    """Give `model` the weights of the run `name`; ValueError names the first that do not fit."""
    weights = HierarchicalTextVAE.from_pretrained(name).state_dict()
    own = model.state_dict()
    unfit = [
        key
        for key in own.keys() | weights.keys()
        if key not in own or key not in weights or own[key].shape != weights[key].shape
    ]
    if unfit:
        raise ValueError(
            f"train.start_from: the model of {name} has another shape ({', '.join(sorted(unfit)[:3])}, "
            f"{len(unfit)} in all); give this run the same model section"
        )
    model.load_state_dict(weights)


@torch.no_grad()
def start_linear(model: HierarchicalTextVAE, documents: Documents, batch_tokens: int, accelerator: Accelerator) -> None:
    """Start the top level's linear map from the principal components of at most `COMPONENTS_FROM` of the documents,
    spread over the data; all processes read some of them."""
    top = model.level_names[0]
    found = []
    chosen = documents.select(spread(COMPONENTS_FROM, len(documents)))
    for group in walk(chosen, model.layout, model.device, batch_tokens=batch_tokens, process=accelerator):
        features = model.features(group.batch)
        assert features is not None
        of_units = group.batch.levels[group.batch.level_number(top)].document
        by_document = features[top].states.split(of_units.bincount(minlength=len(group.batch)).tolist())
        found += [(row, states.cpu()) for row, states in zip(group.rows, by_document, strict=True)]
    model.hierarchy.stack[top].start_linear(torch.cat(gather_in_order(found)).to(model.device))


def parameter_groups(model: HierarchicalTextVAE, settings: TrainConfig) -> list[dict[str, Any]]:
    """Pretrained parameters, adapters and new parameters with their own learning rates; no decay on vectors (biases,
    norms)."""
    config = model.config.model_config
    pretrained = set()
    if model.encoder is not None:
        pretrained |= set(model.encoder.backbone.parameters())
    if config.decoder.name is not None:
        pretrained |= set(model.decoder.backbone.parameters())
    learning_rates = {
        "adapter": settings.adapter_learning_rate,
        "pretrained": settings.pretrained_learning_rate,
        "new": settings.learning_rate,
    }
    groups: dict[tuple[str, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kind = "adapter" if ADAPTER in name else "pretrained" if parameter in pretrained else "new"
            groups.setdefault((kind, parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": groups[kind, is_matrix],
            "lr": learning_rate,
            "weight_decay": settings.weight_decay if is_matrix else 0.0,
        }
        for kind, learning_rate in learning_rates.items()
        for is_matrix in (True, False)
        if (kind, is_matrix) in groups
    ]
