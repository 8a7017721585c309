"""Records training steps for a device that need not be here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch

from autockpt.arguments import checked_request
from autockpt.devices.device import Device
from autockpt.fitting.step import SizedStep
from autockpt.fitting.value import Variant
from autockpt.ladder.graphs import GraphPlanner
from autockpt.profile.cost_model import CostModel
from autockpt.request import Request
from autockpt.sample_step import sample_step

_LIMIT_S = 10.0  # of the search for the plan; those for changes are shorter


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """How steps are recorded.

    Attributes:
        device: The device.
        budget_bytes: What a step may use.
        optimizer: The optimizer or its name.
        progress: Whether progress is shown.
        cost: What operations cost; None for the estimate.
    """

    device: Device
    budget_bytes: int
    optimizer: torch.optim.Optimizer | str | None
    progress: bool
    cost: str | CostModel | None = None
    _latest: list[tuple[torch.nn.Module, Request]] = dataclasses.field(default_factory=list)

    def planner(self, variant: Variant) -> GraphPlanner:
        """A step, captured.

        Raises:
            CaptureError: It cannot be captured as graphs.
        """
        request = self._request(variant)
        with sample_step(variant.model, request, variant.args, variant.kwargs) as step:
            return GraphPlanner.capture(step)

    def _request(self, variant: Variant) -> Request:
        # The optimizer is stepped for it, which a batch or a device does not change.
        if self._latest:
            model, known = self._latest[0]
            if model is variant.model and known.loss_fn is variant.loss_fn:
                return dataclasses.replace(known, device=self.device)
        made = checked_request(
            variant.model,
            self.budget_bytes,
            variant.loss_fn,
            self.optimizer,
            "auto",
            _LIMIT_S,
            self.progress,
            self.device,
            self.cost,
        )
        self._latest[:] = [(variant.model, made)]
        return made

    def sized(self, variant: Variant, planner: GraphPlanner) -> SizedStep:
        """A captured step with what an estimate needs of its model and inputs."""
        trained = [p for p in variant.model.parameters() if p.requires_grad]
        ids = variant.kwargs.get("input_ids")
        return SizedStep.of(
            planner,
            num_trained=sum(p.numel() for p in trained),
            trained_bytes=sum(p.numel() * p.element_size() for p in trained),
            num_tokens=ids.numel() if isinstance(ids, torch.Tensor) else 0,
        )

    def step(self, variant: Variant) -> SizedStep:
        """A step, captured; see `planner`."""
        return self.sized(variant, self.planner(variant))
