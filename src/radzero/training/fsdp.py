"""Give each process a part of the weights by PyTorch's fully sharded data parallelism (FSDP2), one unit per block.

Scalars (the temperatures) cannot be split, so every process holds them, and :func:`average_unsharded` averages their
gradients.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from torch.distributed.fsdp import FSDPModule, fully_shard

from radzero.training.gradient_cache import Towers


def _blocks(towers: nn.Module) -> list[nn.Module]:
    """Return the transformer blocks, which are gathered one at a time."""
    lists = [m for m in towers.modules() if isinstance(m, nn.ModuleList)]
    return [block for blocks in lists for block in blocks if any(True for _ in block.parameters())]


def _scalars(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.ndim == 0]


def shard_model(towers: Towers) -> None:
    """Split the weights over the processes, in place.

    Raises:
        ValueError: without several processes.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        raise ValueError(
            "loop.sharding: fsdp needs several processes: torchrun --nproc-per-node N -m radzero.cli train"
        )
    for block in _blocks(towers):
        if not _scalars(block):
            fully_shard(block)
    fully_shard(towers, ignored_params=set(_scalars(towers)))


@contextmanager
def unsynchronised(towers: nn.Module) -> Iterator[None]:
    """Let gradients add up on each process inside the block; they are exchanged by a later pass."""
    module = cast(FSDPModule, towers)
    module.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        module.set_requires_gradient_sync(True)


def average_unsharded(towers: nn.Module) -> None:
    """Replace the gradients of weights that are not split by their mean over the processes."""
    for parameter in _scalars(towers):
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()


def full(tensor: Tensor) -> Tensor:
    """Return a whole tensor from one that is spread over processes."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def whole_states(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the states of model and optimiser as one process would have them.

    The call is collective, and only the first process gets the states.
    """
    model_state, optimizer_state = get_state_dict(model, optimizer, options=_WHOLE)
    return model_state, cast(dict[str, Any], optimizer_state)


def set_whole_states(
    model: nn.Module, optimizer: torch.optim.Optimizer, model_state: dict[str, Any], optimizer_state: dict[str, Any]
) -> None:
    """Give every process its part of the whole states; collective."""
    set_state_dict(
        model,
        optimizer,
        model_state_dict=model_state,
        optim_state_dict=optimizer_state,
        options=StateDictOptions(full_state_dict=True),
    )
