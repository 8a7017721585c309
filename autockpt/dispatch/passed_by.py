"""Notices a backward that no call of an optimized forward has led to.

A trainer may put another forward on the module, call another method or a part of it, or compile
it. The plan is then passed by, and nothing shows it but the gradients that arrive.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.graph import get_gradient_edge
from torch.utils.hooks import RemovableHandle

from autockpt.torch_private.autograd import after_backward, backward_keeps_graph

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
        self._tell: Callable[[], Any] | None = None

    def arm(self, tell: Callable[[], Any] | None = None) -> None:
        """Call a function once when the first gradient arrives.

        Args:
            tell: The function; None for the one of before. The module's parameters keep it: a
                forward that was put in the place of an optimized one leaves nothing else that does.
        """
        trained = self._trained()
        # The backward of a forward that ran before the module was optimized passes nothing by.
        is_earlier = tell is not None and any(map(_is_in_a_graph, trained))
        self._tell = tell or self._tell
        self._wait(trained, is_earlier=is_earlier)

    def _wait(self, trained: list[torch.Tensor], *, is_earlier: bool) -> None:
        self.disarm()

        def arrived(_: torch.Tensor) -> None:
            if not self._handles:
                return
            self.disarm()
            if is_earlier:
                # The next backward may come through the same graph.
                is_kept = backward_keeps_graph()
                after_backward(lambda: self._wait(self._trained(), is_earlier=is_kept))
            elif self._tell is not None:
                self._tell()

        self._handles = [parameter.register_hook(arrived) for parameter in trained]

    def _trained(self) -> list[torch.Tensor]:
        module = self._module()
        parameters = [] if module is None else list(module.parameters())
        return [p for p in parameters if p.requires_grad and p.is_leaf]

    @property
    def is_armed(self) -> bool:
        """Whether the first gradient is waited for."""
        return bool(self._handles)

    def disarm(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()
        self._handles = []


def _is_in_a_graph(leaf: torch.Tensor) -> bool:
    """Whether an autograd graph that somebody holds leads to a leaf."""
    # Without a graph, autograd makes a new node each time.
    mark = "autockpt"
    _metadata(leaf)[mark] = True
    return mark in _metadata(leaf)


def _metadata(leaf: torch.Tensor) -> dict[Any, Any]:
    node: Any = get_gradient_edge(leaf).node
    found: dict[Any, Any] = node.metadata
    return found


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


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Passed:
    """How a plan was passed by.

    Attributes:
        warning: What to tell of it.
        module: The module whose forward is planned from now on; None if there is none.
    """

    warning: str
    module: torch.nn.Module | None = None


def how_passed(
    module: torch.nn.Module, own: object, *, was_compiled: bool, is_beside: bool
) -> Passed:
    """How a backward came that no call of an optimized forward led to.

    Args:
        module: The module.
        own: Its optimized forward.
        was_compiled: Whether Dynamo has traced an optimized forward since.
        is_beside: Whether a call of its forward waits for its backward.
    """
    kind = type(module)
    path, part = part_that_trains(module)
    ran = "That step ran as it is, without regard to the budget"
    method = '"training_step"' if hasattr(kind, "training_step") else '"its_name"'
    name_it = f"Name the method that the loop calls: autockpt.optimize(..., methods=({method},))"
    planned: torch.nn.Module | None = None
    if module.__dict__.get("forward", own) is not own:
        planned = module
        what = (
            f"its forward was replaced after autockpt.optimize. {ran}; autockpt plans the new "
            "forward from the next call on. Call optimize after the forward is replaced to plan "
            "the first step too."
        )
    elif was_compiled:
        what = (
            f"torch.compile runs its forward. {ran}, and so will the next ones: a plan and "
            "torch.compile do not go together. Do not compile an optimized model."
        )
    elif is_beside:
        what = (
            "a part of that step ran outside of the forward. It is not planned, and its memory is "
            f"not counted. {name_it}."
        )
    elif part is not None and "forward" not in part.__dict__:
        planned = part
        what = (
            f"another method was called. {ran}. From the next call on autockpt plans its part "
            f"{path} ({type(part).__name__}), which has all parameters that train. {name_it}, to "
            "plan the whole step, the first included."
        )
    else:
        what = f"another method was called. {ran}, and so will the next ones. {name_it}."
    head = f"{kind.__name__} is optimized, but gradients came that no call of its forward led to"
    return Passed(warning=f"{head}: {what}", module=planned)
