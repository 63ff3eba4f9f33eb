"""Training: step, validate, log, save.

Shapes: L latent levels, Z_l latent size.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object, set_seed
from torch import Tensor, nn

from textvae.atomic import needing_room
from textvae.build import build_model
from textvae.config import Config, TrainConfig
from textvae.data.dataset import PreparedSplit, load_prepared
from textvae.data.loader import StepBatches, TrainingSteps, losing_no_worker, walk
from textvae.data.plan import BatchPlan, spread
from textvae.data.sources.shards import ShardedSource, open_shards
from textvae.data.stream import Stream, open_stream
from textvae.devices import best_precision, choose_device
from textvae.model.noise import KeyedNoise
from textvae.text_vae import HierarchicalTextVAE
from textvae.training.checkpoint import Checkpoints
from textvae.training.compilation import check_compiler, compile_blocks, uncompiled
from textvae.training.distributed import accumulating, check_sharding, distribute, gathered, whole_weights
from textvae.training.objective import Objective, elbo_terms
from textvae.training.output import RunOutput
from textvae.training.parameters import clip_gradients, freeze_unused, parameter_groups
from textvae.training.progress import Gradients, Progress
from textvae.training.schedules import learning_rate_factor
from textvae.training.start import start
from textvae.training.stopping import StopRequest, TrainingStopped
from textvae.training.sums import Sums, Totals

VALIDATION_NOISE = KeyedNoise(seed=0, step=-1)


def train(config: Config) -> Path:
    """Train as configured, or resume; returns the run folder.

    Raises TrainingStopped when a signal ended it, its state saved; OSError when the disk is full or a worker process is
    lost, the last checkpoint whole.
    """
    output = RunOutput(config.train.output)
    output.check(config)
    accelerator = _accelerator(config.train)
    with _ending(accelerator):
        _train(config, output, accelerator, StopRequest(accelerator))
    return output.folder.path


@contextmanager
def _ending(accelerator: Accelerator) -> Iterator[None]:
    """However what is inside ends, trackers are closed and the group is left, by no process before its copies of the
    model are gone: the group's last reference must not be theirs, who would wait for its threads while these wait for
    the interpreter."""
    try:
        yield
    except BaseException as error:
        held: BaseException | None = error
        while held is not None:
            traceback.clear_frames(held.__traceback__)
            held = held.__context__
        raise
    finally:
        accelerator.free_memory()
        accelerator.end_training()


def _train(config: Config, output: RunOutput, accelerator: Accelerator, request: StopRequest) -> None:
    settings = config.train
    resumes = settings.resume and output.folder.latest_step() is not None
    if settings.compile:
        check_compiler(accelerator.device)
    set_seed(settings.seed)
    training = load_prepared(config.data.path, "train")
    validation = load_prepared(config.data.path, "validation")
    # Found before anything is written or computed.
    source = open_shards(config.data.stream, training.source_options.fields) if config.data.stream else None
    if accelerator.is_main_process and not resumes:
        output.begin(config)
    if settings.resume and not resumes:
        accelerator.print(f"{settings.output} was stopped before its first checkpoint: it starts over", flush=True)
    accelerator.wait_for_everyone()

    plain = build_model(config.model, training.processor).to(accelerator.device)
    if not resumes:
        start(plain, training, config, accelerator)
    if not accelerator.is_main_process:
        # All have built the same; what they drop they draw each for itself.
        set_seed(settings.seed, device_specific=True)
    freeze_unused(plain, config.objective)
    plain.set_chunk_tokens(config.data.micro_batch_tokens)
    # Asks what the decoder can do, while its weights are whole.
    data = _steps(config, training, source, plain, accelerator)
    stream = data if isinstance(data, Stream) else None
    if settings.compile:
        compile_blocks(plain)
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
        {
            "train": training.fingerprint,
            "validation": validation.fingerprint,
            **({} if stream is None else {"stream": stream.fingerprint}),
        },
        settings.keep_checkpoints,
        stream,
    )
    first = checkpoints.restore() if resumes else 0
    if accelerator.is_main_process:
        output.forget_after(first, progress.logged)
    # A tracker's steps after the checkpoint are logged again: without the mark every one of them would stand twice.
    accelerator.init_trackers("tensorboard", init_kwargs={"tensorboard": {"purge_step": first + 1} if resumes else {}})
    progress.begin(first, plain, str(data))
    room = needing_room(output.folder.path, "go on with train.resume=true")
    workers = losing_no_worker("go on with train.resume=true; fewer data.num_workers take less memory and open files")
    with room, workers, request as stop:
        for step, part in enumerate(data.batches(first, config.data.num_workers), start=first):
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
                if stream is not None and (news := stream.news()):
                    accelerator.print(news, flush=True)
                scores = validate(plain, validation, config, accelerator)
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


def _steps(
    config: Config,
    training: PreparedSplit,
    source: ShardedSource | None,
    model: HierarchicalTextVAE,
    accelerator: Accelerator,
) -> TrainingSteps | Stream:
    """This process's part of every step; of `source`, where there is one, in place of `training`."""
    if source is not None:
        steps, seed = config.train.steps, config.train.seed
        return open_stream(config.data, source, training, model.layout, accelerator, steps=steps, seed=seed)
    return TrainingSteps(
        training.read,
        BatchPlan(training.token_counts, config.data.batch_tokens, config.train.seed),
        model.layout,
        steps=config.train.steps,
        micro_batch_tokens=config.data.micro_batch_tokens,
        process=accelerator.process_index,
        num_processes=accelerator.num_processes,
        pin_memory=accelerator.device.type != "cpu",
    )


def _accelerator(settings: TrainConfig) -> Accelerator:
    check_sharding()
    device = choose_device()
    precision = settings.mixed_precision
    if precision == "auto":
        precision = best_precision(device)
    # The precision of a process's first run would otherwise be that of all its runs.
    AcceleratorState._reset_state()
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        mixed_precision=precision,
        log_with="tensorboard" if settings.tracker == "tensorboard" else None,
        project_dir=settings.output,
    )
    found = sorted(set(gather_object([precision])))
    if len(found) > 1:
        raise ValueError(
            f"train.mixed_precision is auto, and what is best differs between the processes: {', '.join(found)}; "
            "set it to one of them"
        )
    return accelerator


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
    accelerator.unscale_gradients()  # of fp16
    norm, ratios = clip_gradients(plain, settings.max_gradient_norm, measured)
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
def validate(model: HierarchicalTextVAE, split: PreparedSplit, config: Config, accelerator: Accelerator) -> Sums:
    """The one-sample ELBO over at most `train.validation_documents`, spread over the split, the same with the same
    noise every time."""
    model.eval()
    totals = Totals(model)
    documents = split.documents.select(spread(config.train.validation_documents, len(split)))
    batch_tokens, likelihood = config.data.micro_batch_tokens, config.objective.likelihood
    with gathered(model), uncompiled(config.train.compile):
        for group in walk(documents, model.layout, model.device, batch_tokens=batch_tokens, process=accelerator):
            with accelerator.autocast():
                output = model(group.batch, VALIDATION_NOISE, likelihood=likelihood)
            totals.add(group.batch, elbo_terms(output, group.batch))
    return totals.reduce(accelerator)
