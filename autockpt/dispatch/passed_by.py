"""Notices a backward that no call of an optimized forward has led to.

A trainer may put another forward on the module, call another method or a part of it, or compile
it. The plan is then passed by, and nothing shows it but the gradients that arrive.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch.utils.hooks import RemovableHandle

_compilations: list[None] = []


class FirstGradient:
    """Tells when the first gradient of a module arrives, unless it is disarmed before."""

    def __init__(self, module: torch.nn.Module) -> None:
        """Watch nothing yet.

        Args:
            module: The module.
        """
        self._module = weakref.ref(module)
        self._handles: list[RemovableHandle] = []

    def arm(self, tell: Callable[[], Any]) -> None:
        """Call a function once when the first gradient arrives.

        Args:
            tell: The function. The module's parameters keep it: a forward that was put in the
                place of an optimized one leaves nothing else that does.
        """
        self.disarm()
        module = self._module()

        def arrived(_: torch.Tensor) -> None:
            if self._handles:
                self.disarm()
                tell()

        for parameter in [] if module is None else module.parameters():
            if parameter.requires_grad and parameter.is_leaf:
                self._handles.append(parameter.register_hook(arrived))

    @property
    def is_armed(self) -> bool:
        """Whether the first gradient is waited for."""
        return bool(self._handles)

    def disarm(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()
        self._handles = []


def _note_compilation() -> bool:
    _compilations.append(None)
    return True


# Dynamo calls it while it traces an optimized forward.
note_compilation: Callable[[], bool] = torch.compiler.assume_constant_result(_note_compilation)


def num_compilations() -> int:
    """How often Dynamo has traced an optimized forward for someone else."""
    return len(_compilations)


def part_that_trains(module: torch.nn.Module) -> tuple[str, torch.nn.Module | None]:
    """The smallest submodule that has all parameters that require grad, with its path.

    None if only the module itself has them all.
    """
    trained = {id(p) for p in module.parameters() if p.requires_grad}
    smallest: tuple[str, torch.nn.Module | None] = "", None
    for path, part in module.named_modules():
        if not trained <= {id(p) for p in part.parameters()}:
            continue
        # A container such as a ModuleList has no forward of its own.
        if path and type(part).forward is not torch.nn.Module.forward:
            smallest = path, part
    return smallest


def pass_by_warning(
    name: str,
    how: Literal["replaced", "compiled", "part", "method"],
    path: str,
    part: str,
) -> str:
    """What to tell of a plan that was passed by.

    Args:
        name: The class of the module.
        how: What happened: its forward was replaced or is compiled, or another method was called,
            where one part has all parameters that train or none has.
        path: The path of that part.
        part: Its class.
    """
    ran = "That step ran as it is, without regard to the budget"
    texts = {
        "replaced": f"its forward was replaced after autockpt.optimize. {ran}; autockpt plans the "
        "new forward from the next call on. Call optimize after the forward is replaced to plan "
        "the first step too.",
        "compiled": f"torch.compile runs its forward. {ran}, and so will the next ones: a plan and "
        "torch.compile do not go together. Do not compile an optimized model.",
        "part": f"another method was called. {ran}. From the next call on autockpt plans its part "
        f"{path} ({part}), which has all parameters that train. Optimize what the loop calls, to "
        f"plan the first step too: autockpt.optimize(model.{path}, ...).",
        "method": f"another method was called. {ran}, and so will the next ones. Optimize the "
        "modules whose forwards the loop calls.",
    }
    head = f"{name} is optimized, but a backward came that no call of its forward led to"
    return f"{head}: {texts[how]}"
