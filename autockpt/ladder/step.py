"""A training step to plan for: a model, its inputs, and what is asked of the plan."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from autockpt.capture.step import TraceMemo
from autockpt.errors import AutockptError, CaptureError, NotTrainableError, internal_errors
from autockpt.loop import PLAIN, Loop
from autockpt.lower.solving_time import SolvingTime
from autockpt.report.parts import FixedBytes
from autockpt.request import Dimensions, Request
from autockpt.user_code import raised_at
from autockpt.user_signals import handlers_code, is_by_a_handler
from autockpt.verify.inputs import input_leaves
from autockpt.verify.live_bytes import distinct_bytes
from autockpt.verify.loss import trained_tensors
from autockpt.verify.step import Step, acts_on_parameters


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StepToPlan:
    """One training step of a module.

    Attributes:
        module: The model.
        forward: Its own forward.
        args: Positional inputs.
        kwargs: Keyword inputs.
        request: What is asked of the plan.
        loop: What the training loop does around it.
        buckets_bytes: What data parallelism keeps beside the gradients to reduce them.
        varying: Dimensions of inputs that may be smaller when the plan is followed.
        solving: How long the solver has taken in this planning.
        memo: The trace of the same call, planned for another loop.
    """

    module: torch.nn.Module
    forward: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    request: Request
    loop: Loop = PLAIN
    buckets_bytes: int = 0
    varying: Dimensions = frozenset()
    solving: SolvingTime = dataclasses.field(default_factory=SolvingTime)
    memo: TraceMemo | None = None

    @property
    def model_name(self) -> str:
        """The class of the model, as errors name it."""
        return type(self.module).__name__

    @property
    def numbers_vary(self) -> bool:
        """Whether numbers of inputs may be smaller, and not only sizes of tensors."""
        leaves = input_leaves((self.args, dict(self.kwargs)))
        return any(not isinstance(leaves[leaf], torch.Tensor) for leaf, _ in self.varying)

    @property
    def accumulates(self) -> bool:
        """Whether the backward adds to gradients of an earlier one."""
        return self.loop.accumulates

    @property
    def older_gradients_bytes(self) -> int:
        """Bytes of the gradients that the backward adds to."""
        return distinct_bytes([p.grad for p in self.module.parameters() if self.accumulates])

    @property
    def cleared_gradients_bytes(self) -> int:
        """Bytes of older gradients that are freed before the backward begins."""
        return self.gradients_bytes if self.loop.clears_late else 0

    @property
    def gradients_bytes(self) -> int:
        """Bytes of all gradients."""
        return sum(
            p.numel() * p.element_size() for p in self.module.parameters() if p.requires_grad
        )

    @property
    def inputs_bytes(self) -> int:
        """Bytes of the inputs of all calls."""
        inputs_bytes = distinct_bytes(input_leaves((self.args, dict(self.kwargs))))
        return self.loop.num_calls * inputs_bytes

    @property
    def fixed(self) -> FixedBytes:
        """What is in memory from the beginning of the step to its end."""
        return FixedBytes(
            parameters_bytes=distinct_bytes(list(self.module.parameters())),
            buffers_bytes=distinct_bytes(list(self.module.buffers())),
            optimizer_bytes=self.request.optimizer.state_bytes,
            inputs_bytes=self.inputs_bytes,
            communication_bytes=self.buckets_bytes,
            other_models_bytes=self.loop.others.beside_bytes,
        )

    def runnable(self) -> Step:
        """The step as one that runs for real, on the device of what it trains first.

        Raises:
            CaptureError: The step changes parameters by itself, so that it cannot be tried.
            NotTrainableError: No parameter requires grad, and no input does.
        """
        if acts_on_parameters(self.module):
            raise CaptureError(
                where=self.model_name,
                reason="a step changes its parameters by itself (hooks, max_norm), so autockpt "
                "cannot run one to measure it",
            )
        for tensor in trained_tensors(self.module, (self.args, dict(self.kwargs))):
            return self.on(tensor.device)
        raise NotTrainableError("no parameter requires grad, and no input does")

    def on(self, device: torch.device) -> Step:
        """The step as one that runs for real, on this device."""
        return Step(
            module=self.module,
            forward=self.forward,
            args=self.args,
            kwargs=self.kwargs,
            loss_fn=self.request.loss_fn,
            device=device,
            loop=self.loop,
        )


@contextlib.contextmanager
def eager_failures(step: Step, *, stage: str) -> Iterator[None]:
    """Find out whether the model or autockpt is to blame when its own forward fails under watch.

    The step then runs once more, without anything of autockpt around it.

    Args:
        step: What runs inside of the context.
        stage: What autockpt is doing, for the error that reports a bug.

    Raises:
        CaptureError: The step fails by itself.
        InternalError: It fails only while autockpt watches it.
        Exception: A signal handler of yours raised it.
    """
    handlers = handlers_code()
    try:
        yield
    except Exception as error:
        is_ours = isinstance(error, AutockptError) and not isinstance(error, CaptureError)
        if is_ours or is_by_a_handler(error, handlers):
            raise
        own_failure = step.failure()
        if isinstance(own_failure, AutockptError):  # its loss fails, or is none
            if isinstance(own_failure, CaptureError):
                own_failure.fails_alone = True
            raise own_failure from own_failure.__cause__
        if own_failure is not None:
            name, place = type(step.module).__name__, raised_at(own_failure)
            raise CaptureError(
                where=f"{name} ({place})" if place else name,
                reason="its forward fails on these inputs: "
                f"{type(own_failure).__name__}: {own_failure}",
                fails_alone=True,
            ) from own_failure
        if isinstance(error, AutockptError):
            raise
        with internal_errors(stage):
            raise


def solver_errors(request: Request) -> contextlib.AbstractContextManager[None]:
    """Report what the engine does not expect as a bug; a user's own method raises as it is."""
    return contextlib.nullcontext() if callable(request.method) else internal_errors("solve")
