"""A model in several processes: each holds a copy (DDP), or they share its trained weights and what the optimiser keeps
of them (FSDP2).

Gradients are reduced once a step, after its last backward pass; under FSDP2 weights are gathered once, before its first
forward pass. In between the processes do not wait for each other, so that they may run different numbers of
micro-batches, and of chunks in them. This is why FSDP2 has the whole model for its one unit: units of single blocks are
gathered and reduced at every chunk, and a process with fewer chunks would wait for ever. Frozen weights are whole in
every process, as they would be during a step anyway.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin, is_torch_version, parse_flag_from_env
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import get_total_norm


def check_sharding() -> None:
    """Raises ValueError where `accelerate launch` asks for a kind of FSDP that training does not do."""
    if not parse_flag_from_env("ACCELERATE_USE_FSDP"):
        return
    asked = FullyShardedDataParallelPlugin()
    if not is_torch_version(">=", "2.13"):
        # Older ones may find no tensors in a dataclass that a model returns, and reduce no gradients.
        raise ValueError(f"FSDP2 needs torch 2.13 or newer, this is {torch.__version__}; update it, or train with DDP")
    refused = {
        "fsdp_version must be 2": asked.fsdp_version != 2,
        "fsdp_reshard_after_forward must be false: weights are gathered once a step": asked.reshard_after_forward,
        "fsdp_auto_wrap_policy must be NO_WRAP: weights are gathered once a step": asked.auto_wrap_policy is not None,
        "fsdp_offload_params must be false": isinstance(asked.cpu_offload, CPUOffloadPolicy),
        "fsdp_cpu_ram_efficient_loading must be false: every process reads the weights itself": (
            asked.cpu_ram_efficient_loading
        ),
        "fsdp_activation_checkpointing must be false: set model.decoder.gradient_checkpointing": (
            asked.activation_checkpointing
        ),
    }
    for remedy, is_asked in refused.items():
        if is_asked:
            raise ValueError(f"accelerate's configuration: {remedy}; configs/accelerate/fsdp2.yaml has it right")


def how_shared(model: nn.Module, accelerator: Accelerator) -> str:
    """In words for a person, such as `2 processes (FSDP2)`."""
    if accelerator.num_processes == 1:
        return "one process"
    return f"{accelerator.num_processes} processes ({'FSDP2' if isinstance(model, FSDPModule) else 'DDP'})"


def distribute(model: nn.Module, accelerator: Accelerator) -> nn.Module:
    """`model`, which is on its device, for as many processes as there are; its parameters may be others afterwards, so
    the optimiser is made later."""
    if not (parse_flag_from_env("ACCELERATE_USE_FSDP") and torch.distributed.is_initialized()):
        return accelerator.prepare_model(model)
    # Views among what the model returns would be a danger if anything were changed in place.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor", UserWarning)
    fully_shard(
        model,
        mesh=init_device_mesh(accelerator.device.type, (accelerator.num_processes,)),
        reshard_after_forward=False,
        # Mixed precision is autocast's, as under DDP: latents and their rates stay in single precision.
        mp_policy=MixedPrecisionPolicy(cast_forward_inputs=False),
        ignored_params={parameter for parameter in model.parameters() if not parameter.requires_grad},
    )
    return model


@contextmanager
def accumulating(model: nn.Module, accelerator: Accelerator) -> Iterator[None]:
    """Within, backward passes add to this process's gradients and tell no other process."""
    if not isinstance(model, FSDPModule):
        with accelerator.no_sync(model):
            yield
        return
    model.set_requires_gradient_sync(False)
    model.set_reshard_after_backward(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)
        model.set_reshard_after_backward(True)


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Within, every process has all weights and may run as many forward passes as it likes, or none; all processes
    enter and leave together."""
    if not isinstance(model, FSDPModule):
        yield
        return
    model.unshard()
    try:
        yield
    finally:
        model.reshard()


def total_norms(groups: Sequence[Sequence[Tensor]]) -> Tensor:
    """[G] norm of each group of tensors, which processes share all or none of. Of shared ones it is the whole tensors',
    found in one reduction for all groups; all processes call this together."""
    local = [[value.to_local() if isinstance(value, DTensor) else value for value in group] for group in groups]
    norms = torch.stack([get_total_norm(group) for group in local])
    mesh = next((value.device_mesh for group in groups for value in group if isinstance(value, DTensor)), None)
    if mesh is None:
        return norms
    squares = norms.double().square()
    torch.distributed.all_reduce(squares, group=mesh.get_group())
    return squares.sqrt().to(norms.dtype)


def shard(parameter: Tensor) -> Tensor:
    """Of a parameter that processes share this process's part, with its gradient's, in the same memory; any other as it
    is."""
    if not isinstance(parameter, DTensor):
        return parameter
    own = parameter.to_local().detach()
    if isinstance(parameter.grad, DTensor):
        own.grad = parameter.grad.to_local()
    return own


def whole_weights(model: nn.Module, keep: bool) -> dict[str, Any]:
    """The state dict of `model`, as `whole_state`."""
    # As parameters, which tied ones share: detached, every name would have a tensor of its own.
    return whole_state(model.state_dict(keep_vars=True), keep)


def whole_state(state: Any, keep: bool) -> Any:
    """A state dict, or what is nested in one, with its shared tensors gathered on the CPU, tensor by tensor; all
    processes call this together. Where `keep` is false they are None: one process is enough to write them."""
    return _whole_state(state, keep, {})


def _whole_state(state: Any, keep: bool, seen: dict[int, Tensor | None]) -> Any:
    if isinstance(state, DTensor):
        # Tied weights are one tensor, and stay one.
        if id(state) not in seen:
            full = state.full_tensor().detach()
            seen[id(state)] = full.cpu() if keep else None
        return seen[id(state)]
    if isinstance(state, Tensor):
        return state.detach()
    if isinstance(state, Mapping):
        return {name: _whole_state(value, keep, seen) for name, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_whole_state(value, keep, seen) for value in state)
    return state


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load whole `weights`, each process its shard of them. Raises RuntimeError where they are another model's."""
    own = model.state_dict()
    model.load_state_dict({name: _shard(value, own.get(name)) for name, value in weights.items()})


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load an optimiser's whole state, each process its shard of it."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    kept = {
        number: {name: _shard(value, parameters[number]) for name, value in values.items()}
        for number, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": kept})


def _shard(value: Any, like: Tensor | None) -> Any:
    """`value` shared out as `like` is, if they are of one shape."""
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    # Every process has read all of it: none sends.
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
