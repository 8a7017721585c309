"""Two copies of a model trained from the same seed, compared to the bit, by peak and by time."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field

import torch

from autockpt.torch_private.pytree import tree_leaves
from autockpt.torch_private.tensors import storage_key
from autockpt.verify.bits import same_bits
from autockpt.verify.peak import measure_peak_bytes
from autockpt.zoo import Example


class Trainer:
    """An example's model that trains on its batch with AdamW, in place.

    Args:
        example: Model and batch.
        learning_rate: AdamW's.
    """

    def __init__(self, example: Example, *, learning_rate: float = 1e-3) -> None:
        self.example = example
        self.model = example.model
        self.device = next(example.model.parameters()).device
        self.optimizer = torch.optim.AdamW(example.model.parameters(), lr=learning_rate)

    def step(self) -> torch.Tensor:
        """Trains one step and returns its loss; the gradients stay until the next."""
        self.optimizer.zero_grad(set_to_none=True)
        # Held until the step is over, as in most training loops: the plan counts outputs so.
        output = self.model(*self.example.args, **self.example.kwargs)
        loss = self.example.loss_of(output)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def train(self, num_steps: int, *, seed: int = 0) -> dict[str, torch.Tensor]:
        """Trains from a seed and returns all that a training run leaves, by name.

        Parameters and the like are not copied: compare before training on.
        """
        torch.manual_seed(seed)
        left = {f"loss of step {i + 1}": self.step() for i in range(num_steps)}
        for name, parameter in self.model.named_parameters():
            left[f"parameter {name}"] = parameter.detach()
            if parameter.grad is not None:
                left[f"gradient of {name}"] = parameter.grad
            for key, value in self.optimizer.state.get(parameter, {}).items():
                left[f"{key} of {name}"] = value
        for name, buffer in self.model.named_buffers():
            left[f"buffer {name}"] = buffer
        left["random state of the CPU"] = torch.get_rng_state()
        if self.device.type != "cpu":
            module = torch.get_device_module(self.device)
            left["random state of the device"] = module.get_rng_state(self.device)
        return left

    def peak_bytes(self) -> int:
        """Measures the peak of one more step, what rests in memory included."""
        # The measurement sees what is allocated while it runs, so nothing older may be freed in it.
        self.optimizer.zero_grad(set_to_none=True)
        return self.resting_bytes() + measure_peak_bytes(self.step, self.device)

    def resting_bytes(self) -> int:
        """Returns the bytes of parameters, buffers, optimizer state and batch."""
        state = [self.optimizer.state.get(p, {}) for p in self.model.parameters()]
        leaves = tree_leaves(
            [
                list(self.model.parameters()),
                list(self.model.buffers()),
                state,
                self.example.args,
                dict(self.example.kwargs),
            ]
        )
        storages = {
            storage_key(leaf): leaf.untyped_storage().nbytes()
            for leaf in leaves
            # AdamW keeps its step counts on the CPU, whatever the device.
            if isinstance(leaf, torch.Tensor) and leaf.device == self.device
        }
        return sum(storages.values())

    def time_ns(self) -> int:
        """Times one more step, on the device's own clock where it has one."""
        if self.device.type == "cpu":
            start_ns = time.perf_counter_ns()
            self.step()
            return time.perf_counter_ns() - start_ns
        module = torch.get_device_module(self.device)
        start, end = module.Event(enable_timing=True), module.Event(enable_timing=True)
        start.record()
        self.step()
        end.record()
        module.synchronize(self.device)
        return int(start.elapsed_time(end) * 1e6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Step times of two trainers, taken in turns; medians."""

    first_ns: int
    second_ns: int
    ratio: float
    num_pairs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What two training runs left.

    Attributes:
        num_tensors: How many tensors were compared.
        differing: Names of those that are not equal bit for bit.
        max_difference: The largest absolute difference among them.
    """

    num_tensors: int
    differing: tuple[str, ...] = field(default=())
    max_difference: float = 0.0

    @property
    def bit_equal(self) -> bool:
        """Whether nothing differs."""
        return not self.differing


def compare(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> Comparison:
    """Compares by name; a tensor that only one of the runs has differs."""
    names = [*first, *(name for name in second if name not in first)]
    differing = [
        name
        for name in names
        if name not in first or name not in second or not same_bits(first[name], second[name])
    ]
    largest = 0.0
    for name in differing:
        if name in first and name in second and first[name].shape == second[name].shape:
            difference = (first[name].double() - second[name].double()).abs()
            largest = max(largest, difference.max().item() if difference.numel() else 0.0)
    return Comparison(num_tensors=len(names), differing=tuple(differing), max_difference=largest)


def time_in_turns(first: Trainer, second: Trainer, *, num_pairs: int) -> Times:
    """Times steps of both in turns, so that what else the machine does falls on both alike.

    The ratio is the median of the pairs' ratios, second over first.
    """
    pairs = [(first.time_ns(), second.time_ns()) for _ in range(num_pairs)]
    return Times(
        first_ns=int(statistics.median(a for a, _ in pairs)),
        second_ns=int(statistics.median(b for _, b in pairs)),
        ratio=statistics.median(b / a for a, b in pairs),
        num_pairs=num_pairs,
    )
