"""One plan on every rank: how ranks that train one model together agree while they plan.

Ranks talk over the key-value store of ``torch.distributed``, never by collectives: those belong to
the training step, and a rank that plans while others do not would make them all hang. All ranks
meet at the first training call of a model, each with the layout of its own inputs. The lowest rank
with a layout plans for it and the others follow its plan; none continues before all have a plan.
Layouts that turn up later are planned by the first rank that sees them, and later ranks take that
plan. No rank waits for others then: they may never see such a layout.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import pickle
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from autockpt.errors import AutockptError, CaptureError, InternalError, PeerError
from autockpt.torch_private.distributed import (
    active_data_parallel,
    is_distributed_tensor,
    rank_store,
    sharding_group,
)
from autockpt.torch_private.modules import reparametrized

T = TypeVar("T")

# A store takes values of up to 8 MiB.
_PART_BYTES = 4 * 2**20
_num_groups: collections.Counter[tuple[int, ...]] = collections.Counter()


class Ranks:
    """The ranks that train one model, and their agreement about its plans."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        members = tuple(dist.get_process_group_ranks(group))
        # The first training calls of several models come in the same order on all ranks.
        number = _num_groups[members]
        _num_groups[members] += 1
        name = "-".join(map(str, members))
        self._store = rank_store(f"autockpt/{name}/{number}")
        self._members = members
        self._rank = dist.get_rank()
        self._have_met = False

    def agree(self, layout: Any, plan: Callable[[], T]) -> T:
        """Return what ``plan`` returns on the one rank that runs it for this layout.

        Args:
            layout: Describes the inputs; ranks with equal layouts share one plan.
            plan: Makes the plan.

        Raises:
            AutockptError: ``plan`` raised it, here or on the rank that plans for this layout. At
                the first call of a model, a failure for another layout is raised as well.
            PeerError: Another rank has hit a bug, or does not answer.
        """
        # Devices of one kind are one layout, whatever their index.
        key = hashlib.sha256(re.sub(r"index=\d+|:\d+", "", repr(layout)).encode()).hexdigest()
        if self._have_met:
            leads = self._store.add(f"{key}/comers", 1) == 1
            return self._led(key, plan) if leads else self._followed(key)
        self._have_met = True
        self._put(f"layout/{self._rank}", key)
        keys = {rank: self._get(f"layout/{rank}", rank) for rank in self._members}
        same = sum(1 for other in keys.values() if other == key)
        leader = min(rank for rank, other in keys.items() if other == key)
        if leader == self._rank:
            self._store.add(f"{key}/comers", same)
        try:
            result = self._led(key, plan) if leader == self._rank else self._followed(key)
        except Exception as error:
            self._put(f"outcome/{self._rank}", self._for_peers(error))
            raise
        self._put(f"outcome/{self._rank}", None)
        for rank in self._members:
            self._raise(self._get(f"outcome/{rank}", rank))
        return result

    def _led(self, key: str, plan: Callable[[], T]) -> T:
        try:
            result = plan()
        except Exception as error:
            self._put(f"{key}/plan", (self._for_peers(error), None))
            raise
        self._put(f"{key}/plan", (None, result))
        return result

    def _followed(self, key: str) -> Any:
        error, result = self._get(f"{key}/plan", None)
        self._raise(error)
        return result

    def _for_peers(self, error: Exception) -> AutockptError:
        """The error that other ranks raise; they report a bug as a `PeerError`."""
        if isinstance(error, AutockptError) and not isinstance(error, InternalError):
            return error
        return PeerError(rank=self._rank, reason=f"{type(error).__name__}: {error}")

    @staticmethod
    def _raise(error: AutockptError | None) -> None:
        if error is not None:
            raise error

    def _put(self, name: str, value: Any) -> None:
        data = zlib.compress(pickle.dumps(value))
        parts = [data[i : i + _PART_BYTES] for i in range(0, len(data), _PART_BYTES)]
        for number, part in enumerate(parts):
            self._store.set(f"{name}/{number}", part)
        self._store.set(name, str(len(parts)))

    def _get(self, name: str, rank: int | None) -> Any:
        try:
            num_parts = int(self._store.get(name))
            parts = [self._store.get(f"{name}/{number}") for number in range(num_parts)]
        except dist.DistError as error:
            raise PeerError(rank=rank, reason=f"no answer ({error})") from error
        return pickle.loads(zlib.decompress(b"".join(parts)))  # noqa: S301 - from our own ranks


def parallel_around(module: torch.nn.Module, known: Parallel | None) -> Parallel | None:
    """What makes several ranks train this module now, if anything; ``known`` if it still does."""
    group = sharding_group(module)
    if group is not None:
        return known if isinstance(known, Sharded) else Sharded(group)
    wrapper = active_data_parallel()
    if wrapper is None:
        return None
    if isinstance(known, DataParallel) and known.wrapper is wrapper:
        return known
    is_inside = any(m is module for m in wrapper.module.modules())
    return DataParallel(wrapper) if is_inside else None


def refuse_spread(module: torch.nn.Module) -> None:
    """Refuse a module with parameters that are spread over ranks: its step would wait for them.

    Raises:
        CaptureError: Some parameters are DTensors.
    """
    if any(is_distributed_tensor(p) for p in module.parameters()):
        raise CaptureError(
            where=type(module).__name__,
            reason="some of its parameters are DTensors, spread over ranks",
            advice="With fully_shard, optimize each block, with a budget of its own, before or "
            "after it is sharded: a block's parameters are whole while it runs. Tensor parallel "
            "modules cannot be optimized.",
        )


class Sharded:
    """What ``fully_shard`` on a module means for its plans.

    While the module runs, its parameters are whole, plain tensors: gathered before, freed after. So
    it is planned as on one device, and all ranks follow one plan.
    """

    buckets_are_gradients = False
    buckets_bytes = 0
    reduces_on_the_way = False

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.ranks = Ranks(group)

    def out_of_the_way(self, _: torch.nn.Module) -> contextlib.AbstractContextManager[None]:
        """Do nothing: trial steps run on copies of the inputs, which trigger no reduction."""
        return contextlib.nullcontext()


class DataParallel:
    """What a DistributedDataParallel around a module means for its plans."""

    reduces_on_the_way = True

    def __init__(self, wrapper: Any) -> None:
        self.wrapper = wrapper
        self.ranks = Ranks(wrapper.process_group)

    @property
    def buckets_are_gradients(self) -> bool:
        """Whether gradients live in the buckets that are reduced."""
        return bool(self.wrapper.gradient_as_bucket_view)

    @property
    def buckets_bytes(self) -> int:
        """Bytes of the buckets, if they are kept beside the gradients."""
        if self.buckets_are_gradients:
            return 0
        return sum(p.numel() * p.element_size() for p in self._reduced())

    def _reduced(self) -> list[torch.nn.Parameter]:
        return [p for p in self.wrapper.module.parameters() if p.requires_grad]

    @contextlib.contextmanager
    def out_of_the_way(self, module: torch.nn.Module) -> Iterator[None]:
        """Let trial steps of a module reduce nothing and touch no bucket.

        The reducer's hooks stay with the parameters. Meanwhile the module has other parameters with
        the same data, and with gradients if a step adds to existing ones.
        """
        stand_ins: dict[int, torch.nn.Parameter] = {}
        named = dict(module.named_parameters(remove_duplicate=False))
        for parameter in named.values():
            if id(parameter) not in stand_ins:
                stand_in = torch.nn.Parameter(parameter.detach(), parameter.requires_grad)
                if parameter.grad is not None:
                    stand_in.grad = parameter.grad.detach()
                elif self.buckets_are_gradients and parameter.requires_grad:
                    stand_in.grad = torch.zeros_like(stand_in)
                stand_ins[id(parameter)] = stand_in
        substitutes = {name: stand_ins[id(parameter)] for name, parameter in named.items()}
        with reparametrized(module, substitutes):
            yield


Parallel = DataParallel | Sharded
