"""Fake tensors in place of a model's parameters, buffers and inputs."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from autockpt.capture.blame import models_code
from autockpt.torch_private.dynamo_settings import quiet_fakes
from autockpt.torch_private.fakes import FakeTensor, FakeTensorMode
from autockpt.torch_private.kernels import exact_layouts
from autockpt.torch_private.modules import buffer_registry, reparametrized
from autockpt.verify.held_state import unchanged_attributes
from autockpt.verify.inputs import mapped_inputs
from autockpt.verify.random_state import kept_random_states


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FakeStep:
    """A model's tensors and inputs as fake tensors.

    Attributes:
        mode: Their mode.
        tensors: Parameters and buffers, by every name that they have.
        with_gradients: Those that have a gradient already, to which this step's is added.
        args: Positional inputs.
        kwargs: Keyword inputs.
        of: Returns the fake of a tensor, always the same one, and anything else as it is.
        has_no_data: Whether the model or the inputs hold no data themselves.
    """

    mode: FakeTensorMode
    tensors: dict[str, torch.Tensor]
    with_gradients: tuple[torch.Tensor, ...]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    of: Callable[[Any], Any]
    has_no_data: bool

    def without_data(self) -> FakeStep:
        """The same without the real tensors, so that it does not keep them in memory."""
        return dataclasses.replace(self, of=_no_fake)


def fake_step(
    module: torch.nn.Module,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    *,
    accumulates: bool,
) -> FakeStep:
    """Make fakes of a module's parameters and buffers and of its inputs.

    Args:
        module: The module; it does not change.
        args: Positional inputs.
        kwargs: Keyword inputs.
        accumulates: Whether gradients that there are already count.

    Raises:
        CaptureError: One of them is of a kind that fake tensors do not support.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    to_fake = Faker(mode)
    tensors: dict[str, torch.Tensor] = {}
    tensors |= dict(module.named_parameters(remove_duplicate=False))
    tensors |= dict(module.named_buffers(remove_duplicate=False))
    with models_code(type(module).__name__, "its tensors or inputs have no fakes"):
        fakes = {name: to_fake(tensor) for name, tensor in tensors.items()}
        fake_args, fake_kwargs = mapped_inputs(to_fake, (args, dict(kwargs)))
    return FakeStep(
        mode=mode,
        tensors=fakes,
        with_gradients=tuple(
            fakes[name] for name, t in tensors.items() if accumulates and t.grad is not None
        ),
        args=fake_args,
        kwargs=fake_kwargs,
        of=to_fake,
        has_no_data=to_fake.saw_no_data,
    )


@contextlib.contextmanager
def running_on(fakes: FakeStep, module: torch.nn.Module) -> Iterator[None]:
    """Let a module run on its fakes; afterwards it is as it was, and so are random states."""
    with _as_it_was(module), reparametrized(module, fakes.tensors), fakes.mode:
        yield


@contextlib.contextmanager
def standing_in_for(fakes: FakeStep, module: torch.nn.Module) -> Iterator[None]:
    """Let a module keep its own tensors while nothing but its fakes is computed with.

    Afterwards it is as it was, and so are random states.
    """
    registries = [(m, dict(buffer_registry(m))) for m in module.modules()]
    gradients = [(parameter, parameter.grad) for parameter in module.parameters()]
    try:
        with _as_it_was(module), fakes.mode:
            yield
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for m, names in registries:
            registry = buffer_registry(m)
            registry.clear()
            registry.update(names)


@contextlib.contextmanager
def _as_it_was(module: torch.nn.Module) -> Iterator[None]:
    with (
        kept_random_states(torch.device("cpu")),
        quiet_fakes(),
        exact_layouts(),
        unchanged_attributes(module),
    ):
        yield


def _no_fake(_: Any) -> Any:
    raise AssertionError("the real tensors of these fakes are gone")


class Faker:
    """Makes fakes of one mode from real tensors, meta tensors and fakes of other modes."""

    def __init__(self, mode: FakeTensorMode) -> None:
        self._mode = mode
        # With the real tensors, so that no other one gets the id of one that is gone.
        self._made: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.saw_no_data = False

    def __call__(self, value: Any) -> Any:
        """Return the fake of a tensor, always the same one, and anything else unchanged."""
        if not isinstance(value, torch.Tensor):
            return value
        if isinstance(value, FakeTensor) and value.fake_mode is self._mode:
            return value
        if id(value) not in self._made:
            if isinstance(value, FakeTensor) or value.device.type == "meta":
                self.saw_no_data = True
                fake = self._from_no_data(value)
            else:
                fake = self._mode.from_tensor(detached(value), static_shapes=True)
            self._made[id(value)] = value, fake
        return self._made[id(value)][1]

    def _from_no_data(self, value: torch.Tensor) -> torch.Tensor:
        device = value.fake_device if isinstance(value, FakeTensor) else value.device
        if device.type == "meta":
            device = torch.device("cpu")
        with self._mode:
            fake = torch.empty_strided(
                value.shape, value.stride(), dtype=value.dtype, device=device
            )
        if isinstance(value, torch.nn.Parameter):
            return torch.nn.Parameter(fake, requires_grad=value.requires_grad)
        return fake.requires_grad_(value.requires_grad)


def detached(value: Any) -> Any:
    """Cut a tensor off the graph that made it; it requires a gradient as before."""
    if not isinstance(value, torch.Tensor) or value.is_leaf:
        return value
    return value.detach().requires_grad_(value.requires_grad)


def holds_no_data(values: list[Any]) -> bool:
    """Whether there are fake or meta tensors among these."""
    return any(
        isinstance(value, FakeTensor)
        or (isinstance(value, torch.Tensor) and value.device.type == "meta")
        for value in values
    )
