"""Trains two copies of a model from the same seed; compares their bits, peaks and times."""

from __future__ import annotations

import gc
import statistics
import time
from dataclasses import dataclass, field

import torch

from autockpt.profile.optimizer import make_optimizer
from autockpt.torch_private.pytree import tree_leaves
from autockpt.torch_private.tensors import storage_key
from autockpt.verify.bits import same_bits
from autockpt.verify.peak import measure_peak_bytes
from autockpt.zoo import Example


class Trainer:
    """Trains an example's model on its batch, in place.

    Args:
        example: Model and batch.
        optimizer: The optimizer's name.
    """

    def __init__(self, example: Example, *, optimizer: str = "adamw") -> None:
        self.example = example
        self.model = example.model
        self.device = next(example.model.parameters()).device
        trained = [each for each in example.model.parameters() if each.requires_grad]
        self.optimizer = make_optimizer(optimizer, trained)

    def step(self) -> torch.Tensor:
        """Trains one step and returns its loss; gradients stay until the next step."""
        self.optimizer.zero_grad(set_to_none=True)
        # Kept until the step ends, as in most training loops; the plan counts outputs so.
        output = self.model(*self.example.args, **self.example.kwargs)
        loss = self.example.loss_of(output)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def train(self, num_steps: int, *, seed: int = 0) -> dict[str, torch.Tensor]:
        """Trains from a seed and returns everything that training changes, by name.

        Parameters and other state are not copied: compare before you train further.
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
        """Measures the total peak of one more step."""
        # The measurement sees only new allocations, so nothing older may be freed while it runs.
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
        """Times one more step: with the device's own clock, or in time of the processors.

        Processor time is that of all threads of this process; what other processes do to a busy
        machine does not count.
        """
        if self.device.type == "cpu":
            start_ns = time.process_time_ns()
            self.step()
            return time.process_time_ns() - start_ns
        module = torch.get_device_module(self.device)
        start, end = module.Event(enable_timing=True), module.Event(enable_timing=True)
        start.record()
        self.step()
        end.record()
        module.synchronize(self.device)
        return int(start.elapsed_time(end) * 1e6)


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """The step times of two trainers, measured alternately.

    Attributes:
        first_ns: Median of the first's.
        second_ns: Median of the second's.
        ratio: Median over pairs of the second's time divided by the first's.
        least_ratio: The smallest of these ratios.
        most_ratio: The largest.
        num_pairs: How many pairs were measured.
    """

    first_ns: int
    second_ns: int
    ratio: float
    least_ratio: float
    most_ratio: float
    num_pairs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The comparison of two training runs.

    Attributes:
        num_tensors: Number of tensors compared.
        differing: Names of the tensors that are not equal bit for bit.
        max_difference: Their largest absolute difference.
    """

    num_tensors: int
    differing: tuple[str, ...] = field(default=())
    max_difference: float = 0.0

    @property
    def bit_equal(self) -> bool:
        """Whether nothing differs."""
        return not self.differing


def compare(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> Comparison:
    """Compares tensors by name; a tensor that only one run has counts as different."""
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
    """Times steps of both alternately, so that other load on the machine affects both equally.

    Each runs one step before that does not count, and each is the first of every second pair.
    """
    for trainer in (first, second):
        trainer.step()
    gc.collect()
    pairs = []
    for number in range(num_pairs):
        if number % 2 == 0:
            first_ns, second_ns = first.time_ns(), second.time_ns()
        else:
            second_ns, first_ns = second.time_ns(), first.time_ns()
        # A step may be shorter than a tick of the clock.
        pairs.append((max(1, first_ns), max(1, second_ns)))
    ratios = [b / a for a, b in pairs]
    return Times(
        first_ns=int(statistics.median(a for a, _ in pairs)),
        second_ns=int(statistics.median(b for _, b in pairs)),
        ratio=statistics.median(ratios),
        least_ratio=min(ratios),
        most_ratio=max(ratios),
        num_pairs=num_pairs,
    )
