"""How Dynamo traces while models are captured or run by plans; everything is put back.

Several threads may be in here at the same time. Settings of the whole process change when the first
thread comes in, and change back when the last one leaves. Tested with torch 2.11 to 2.15.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch

from autockpt.torch_private.messages import messages_noted, moved_functions
from autockpt.torch_private.own_filters import ignored

# Before 2.13 Dynamo traces `add_` with `alpha` as a product and a sum, which round differently.
_ROUNDS_TWICE = torch.torch_version.TorchVersion(torch.__version__) < "2.13"
_EXACT_ARITHMETIC: dict[str, Any] = {"enable_dynamo_decompositions": False} if _ROUNDS_TWICE else {}
_OPEN_NUMBERS: dict[str, Any] = {
    "allow_unspec_int_on_nn_module": True,
    "assume_static_by_default": True,
    "automatic_dynamic_shapes": True,
}


@contextlib.contextmanager
def tracing_config(
    substitutes: Mapping[Callable[..., Any], Callable[..., Any]] = MappingProxyType({}),
    *,
    numbers_vary: bool = False,
) -> Iterator[None]:
    """Dynamo's settings while autockpt captures or compiles a model.

    What the forward prints, warns and logs does not split graphs, ``numpy.random`` keeps drawing
    from numpy's generator, and Dynamo does not silently run eager if many models of one class are
    optimized.

    Args:
        substitutes: Functions that Dynamo replaces by others while it traces, without guards.
        numbers_vary: Let Dynamo trace attributes of modules that are integers, and have changed, as
            symbols instead of constants. Sizes of tensors stay constants unless they change too.
    """
    import torch._dynamo.config as config

    with (
        config.patch(
            use_numpy_random_stream=True,
            # Hooks may come later.
            skip_nnmodule_hook_guards=False,
            # autockpt cuts graphs for DDP itself, as the plan says.
            optimize_ddp=False,
            recompile_limit=1_000_000,
            accumulated_recompile_limit=1_000_000,
            **_EXACT_ARITHMETIC,
            # A thread's own, as all settings are.
            reorderable_logging_functions=moved_functions(),
            **(_OPEN_NUMBERS if numbers_vary else {}),
        ),
        _for_all_threads("not exporting", _not_exporting),
        _for_all_threads("messages", messages_noted),
        # torch 2.11 cannot write these settings into its metrics, and logs a traceback each time.
        _for_all_threads("quiet metrics", _no_logs_of("torch._dynamo.metrics_context")),
        contextlib.ExitStack() as stack,
    ):
        for original, stand_in in substitutes.items():
            change = functools.partial(_substituted, original, stand_in)
            stack.enter_context(_for_all_threads(original, change))
        yield


@contextlib.contextmanager
def quiet_fakes() -> Iterator[None]:
    """Keep fake tensors from logging a traceback for an error that autockpt reports itself."""
    with _for_all_threads("quiet fakes", _no_logs_of("torch._subclasses.fake_tensor")):
        yield


_changes: dict[Hashable, tuple[int, contextlib.ExitStack]] = {}
_changes_lock = threading.Lock()


@contextlib.contextmanager
def _for_all_threads(
    name: Hashable, change: Callable[[], contextlib.AbstractContextManager[None]]
) -> Iterator[None]:
    """Change the whole process when the first thread comes in; undo it after the last one."""
    with _changes_lock:
        count, stack = _changes.get(name, (0, contextlib.ExitStack()))
        if not count:
            stack.enter_context(change())
        _changes[name] = count + 1, stack
    try:
        yield
    finally:
        with _changes_lock:
            count, stack = _changes.pop(name)
            if count == 1:
                stack.close()
            else:
                _changes[name] = count - 1, stack


@contextlib.contextmanager
def quiet_warnings() -> Iterator[None]:
    """Silence warnings of Dynamo and AOTAutograd about internals that a user cannot act on."""
    with (
        ignored(module=r"torch\."),
        # Raised in torch's name at places of other modules.
        ignored(message=".*LeafSpec.*", category=FutureWarning),
    ):
        yield


def _no_logs_of(name: str) -> Callable[[], contextlib.AbstractContextManager[None]]:
    @contextlib.contextmanager
    def quiet() -> Iterator[None]:
        logger = logging.getLogger(name)
        before = logger.level
        logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            logger.setLevel(before)

    return quiet


@contextlib.contextmanager
def _not_exporting() -> Iterator[None]:
    """Before torch 2.14 Dynamo answers ``is_exporting()`` with a constant True (pytorch#176499)."""
    from torch._dynamo.variables.torch import tracing_state_functions

    answers = tracing_state_functions()
    before = answers.get(torch.compiler.is_exporting)
    if before is None:
        yield
        return
    answers[torch.compiler.is_exporting] = False
    try:
        yield
    finally:
        answers[torch.compiler.is_exporting] = before


@contextlib.contextmanager
def _substituted(original: Callable[..., Any], stand_in: Callable[..., Any]) -> Iterator[None]:
    """``torch.compiler.substitute_in_graph``, undone at the end."""
    from torch._dynamo.decorators import substitute_in_graph
    from torch._dynamo.trace_rules import _polyfilled_function_ids, get_torch_obj_rule_map
    from torch._dynamo.variables import PolyfilledFunctionVariable
    from torch._dynamo.variables.builder import VariableBuilder

    dispatch: dict[int, Any] = VariableBuilder._id_dispatch()
    by_function: list[dict[Any, Any]] = [
        PolyfilledFunctionVariable._get_polyfill_handlers(),
        get_torch_obj_rule_map(),
    ]
    known_ids = set(dispatch)
    known_functions = [set(table) for table in by_function]
    try:
        substitute_in_graph(original)(stand_in)
        yield
    finally:
        for function_id in set(dispatch) - known_ids:
            del dispatch[function_id]
            _polyfilled_function_ids.remove(function_id)
        for table, known in zip(by_function, known_functions, strict=True):
            for function in set(table) - known:
                del table[function]
