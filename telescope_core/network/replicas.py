"""Replicas of one model in several processes, whose gradients are averaged.

With a smoother every process follows its own rows and averages columns of gradients with the
others, as the gradients themselves are.  So each has to have a lens, with the same settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from telescope_core.errors import ConfigurationError, ModelError, listed
from telescope_core.network.checks import check_module

SECONDS_TO_MEET = 120
"""How long the lens of one process waits for those of the others."""

_meetings = count()


@dataclass(frozen=True)
class Replicas:
    """What ``DistributedDataParallel`` makes of a model.

    Attributes:
        wrapper: What training calls.
    """

    wrapper: DistributedDataParallel

    def average(self, *tensors: Tensor) -> None:
        """Replace tensors by their mean over all processes."""
        group = self._group
        for tensor in tensors:
            distributed.all_reduce(tensor, group=group)
            tensor /= distributed.get_world_size(group)

    def take_first(self, tensor: Tensor) -> None:
        """Replace a tensor by that of the first process."""
        distributed.broadcast(tensor, distributed.get_global_rank(self._group, 0), self._group)

    def shares_buffers(self) -> bool:
        """Whether the pass that runs now began with the buffers of the first process."""
        active = DistributedDataParallel._get_active_ddp_module()  # type: ignore[no-untyped-call]
        return active is self.wrapper and bool(self.wrapper.will_sync_module_buffers())

    def meet(self) -> None:
        """Wait for the lenses of the other processes.

        Raises:
            ConfigurationError: There are none after some time, which would otherwise leave this
                process waiting for ever.
        """
        store = distributed.distributed_c10d._get_default_store()
        number = next(_meetings)
        names = [f"telescope/{number}/{rank}" for rank in range(distributed.get_world_size())]
        store.set(names[distributed.get_rank()], "here")
        try:
            store.wait(names, timedelta(seconds=SECONDS_TO_MEET))
        except RuntimeError:
            absent = [str(rank) for rank, name in enumerate(names) if not store.check([name])]
            raise ConfigurationError(
                f"process {listed(absent)} has made no lens within {SECONDS_TO_MEET} s; with "
                "probes columns of gradients are averaged over all processes: make a lens in each "
                "of them, or use probes=None in this one"
            ) from None

    def require_same(self, *marks: Tensor) -> None:
        """Refuse processes whose lenses carry other columns.

        Args:
            marks: Numbers that say what is carried, of one precision.

        Raises:
            ConfigurationError: They differ.
        """
        mine = torch.cat([mark.reshape(-1) for mark in marks])
        every = [torch.empty_like(mine) for _ in range(distributed.get_world_size(self._group))]
        distributed.all_gather(every, mine, group=self._group)
        if any(not torch.equal(each, mine) for each in every):
            raise ConfigurationError(
                "the lenses of the processes follow other label directions; give every process "
                "the same training set, targets, probes, deflate and seed"
            )

    @property
    def _group(self) -> Any:
        return self.wrapper.process_group


def checked_model(model: Any) -> tuple[nn.Module, Replicas | None]:
    """The model inside of ``DistributedDataParallel``, and what is around it.

    Returns:
        The model itself and ``None`` where there is nothing around it.

    Raises:
        ModelError: It cannot be followed.
    """  # the check raises
    replicas = Replicas(model) if isinstance(model, DistributedDataParallel) else None
    inside = model if replicas is None else replicas.wrapper.module
    check_module(inside)
    return inside, replicas


def require_own_statistics(model: nn.Module) -> None:
    """Refuse statistics over several processes, which a pass that is run again would ask for.

    Raises:
        ModelError: Naming the modules.
    """
    shared = [n for n, m in model.named_modules() if isinstance(m, nn.SyncBatchNorm)]
    if shared:
        raise ModelError(
            f"{listed(shared)} (SyncBatchNorm) takes statistics over the batches of all "
            "processes, which the smoother cannot run again in one of them; use BatchNorm, or "
            "probes=None"
        )
