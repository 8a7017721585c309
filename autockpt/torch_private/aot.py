"""AOTAutograd: joint graphs, cutting them in two, and running both parts under autograd.

:mod:`autockpt.torch_private.dynamo_settings` sets how Dynamo traces, and
:mod:`autockpt.torch_private.kernels` which kernels are traced. Tested with torch 2.11 to 2.15.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from unittest import mock

import torch
import torch.fx as fx
from torch._functorch import config as functorch_config
from torch._functorch import partitioners

from autockpt.errors import DoubleBackwardError, internal_errors
from autockpt.torch_private.fakes import FakeTensor
from autockpt.torch_private.graphs import (
    code_when_it_runs,
    generate_code,
    is_sym_node,
    take_one_list,
)
from autockpt.torch_private.operators import CONTIGUOUS_GRADIENTS
from autockpt.torch_private.subclasses import is_in_name_only, plain
from autockpt.torch_private.tensors import suggest_memory_format

default_partition = partitioners.default_partition

# In the metadata of a joint graph's output node: whether autocast caches its casts of parameters,
# and by name of each node of Dynamo's graph the block of autocast at whose end it frees them.
AUTOCAST_CACHES = "autockpt_autocast_caches"
AUTOCAST_BLOCKS = "autockpt_autocast_blocks"

_COMPILED_NODE = "CompiledFunctionBackward"


def extract_forward_backward(
    joint: fx.GraphModule,
    saved: list[fx.Node],
    *,
    num_fwd_outputs: int,
    static_indices: tuple[int, ...],
) -> tuple[fx.GraphModule, fx.GraphModule]:
    """Cut a joint graph, whose nodes are in running order, into the two modules that run.

    Nodes that must run in the backward carry ``meta["partitioner_tag"] = "must_be_in_backward"``.
    """
    info = partitioners.classify_nodes(joint, list(static_indices), num_fwd_outputs)
    with code_when_it_runs():
        forward, backward = partitioners._extract_fwd_bwd_modules(
            joint,
            [node for node in saved if not is_sym_node(node)],
            saved_sym_nodes=[node for node in saved if is_sym_node(node)],
            num_fwd_outputs=num_fwd_outputs,
            static_lifetime_input_nodes=info.static_lifetime_input_nodes,
        )
    # Except while it traces, torch leaves draws of the forward in the backward, without a reader.
    backward.graph.eliminate_dead_code(lambda node: node.is_impure(impure_random=False))
    backward.recompile()
    return forward, backward


def tag_backward(node: fx.Node) -> None:
    """Keep a node out of the forward module."""
    node.meta["partitioner_tag"] = "must_be_in_backward"


def compile_joint(
    graph_module: fx.GraphModule,
    example_inputs: list[Any],
    *,
    partition: Callable[..., tuple[fx.GraphModule, fx.GraphModule]],
    forward_compiler: Callable[..., Any],
    backward_compiler: Callable[..., Any],
    inference_compiler: Callable[..., Any],
) -> Callable[..., Any]:
    """Make a differentiable callable of Dynamo's graph, with AOTAutograd and our partition.

    Args:
        graph_module: Dynamo's graph.
        example_inputs: One for every placeholder.
        partition: Cuts the joint graph into a forward and a backward.
        forward_compiler: Makes a callable of the forward.
        backward_compiler: Makes a callable of the backward.
        inference_compiler: Makes a callable of a graph without a backward.

    Raises:
        InternalError: torch does not take what we give it. What fails while torch traces the model
            is raised as it is.
    """
    with contextlib.ExitStack() as settings:
        with internal_errors("capture"):
            backend = _backend(
                graph_module.graph,
                partition,
                forward_compiler,
                backward_compiler,
                inference_compiler,
            )
            settings.enter_context(code_when_it_runs())
            settings.enter_context(_no_donated_buffers())
            settings.enter_context(_tangents_as_they_come())
            settings.enter_context(functorch_config.patch(backward_pass_autocast="off"))
        compiled: Callable[..., Any] = backend(graph_module, example_inputs)
    return compiled


def activation_memory_budget(share: float) -> contextlib.AbstractContextManager[None]:
    """Let torch's own partitioner keep this share of the activations, of all that compiles here."""
    patched: contextlib.AbstractContextManager[None] = functorch_config.patch(
        activation_memory_budget=share
    )
    return patched


def _backend(
    graph: fx.Graph,
    partition: Callable[..., tuple[fx.GraphModule, fx.GraphModule]],
    forward_compiler: Callable[..., Any],
    backward_compiler: Callable[..., Any],
    inference_compiler: Callable[..., Any],
) -> Callable[..., Any]:
    from torch._dynamo.backends.common import aot_autograd

    blocks = _autocast_blocks(graph)

    def noting_partition(joint: fx.GraphModule, *args: Any, **kwargs: Any) -> Any:
        output = next(iter(joint.graph.find_nodes(op="output")))
        output.meta[AUTOCAST_BLOCKS] = blocks
        output.meta[AUTOCAST_CACHES] = torch.is_autocast_cache_enabled()
        return partition(joint, *args, **kwargs)

    backend: Callable[..., Any] = aot_autograd(
        fw_compiler=forward_compiler,
        bw_compiler=backward_compiler,
        inference_compiler=inference_compiler,
        partition_fn=noting_partition,
        # Mutations of buffers stay in the graph, where they can be seen.
        keep_inference_input_mutations=True,
    )
    return backend


def _autocast_blocks(graph: fx.Graph) -> dict[str, int]:
    """The number of the outermost autocast block around each node; empty if one is around all."""
    if any(torch.is_autocast_enabled(device) for device in ("cpu", "cuda")):
        return {}
    depth = number = 0
    blocks = {}
    for node in graph.nodes:
        depth += node.target is torch.amp.autocast_mode._enter_autocast
        blocks[node.name] = number
        if node.target is torch.amp.autocast_mode._exit_autocast:
            depth -= 1
            number += depth == 0
    return blocks


@contextlib.contextmanager
def _no_donated_buffers() -> Iterator[None]:
    """Keep the backward from overwriting saved tensors, so that ``retain_graph=True`` works.

    Turning the setting off is not enough: torch 2.13 reads it again when the backward runs, and
    takes "not collected" for "some".
    """
    import torch._functorch._aot_autograd.graph_compile as graph_compile

    with mock.patch.object(graph_compile, "collect_bw_donated_buffer_idxs", return_value=[]):
        yield


@contextlib.contextmanager
def _tangents_as_they_come() -> Iterator[None]:
    """Pass gradients to a backward with the strides that eager's would have.

    AOTAutograd copies them to the strides of the output that they belong to, and sums over a copy
    with other strides round differently.
    """
    from torch._functorch._aot_autograd.runtime_wrappers import AOTDispatchAutograd

    by_itself = AOTDispatchAutograd.process_runtime_tangent

    def process(tangent: Any, *args: Any, **kwargs: Any) -> Any:
        if is_in_name_only(tangent):
            tangent = plain(tangent)
        if type(tangent) in (torch.Tensor, FakeTensor):
            return tangent, [tangent]
        return by_itself(tangent, *args, **kwargs)

    with mock.patch.object(AOTDispatchAutograd, "process_runtime_tangent", staticmethod(process)):
        yield


def boxed(graph_module: fx.GraphModule) -> Callable[[list[Any]], Any]:
    """Run a graph on a list of inputs that it empties, so that inputs are freed at their last use.

    A few operators report other strides under tracing than they return (``mse_loss_backward`` on a
    permuted input), so a view that tracing could make may be impossible: reshape copies then.
    Gradients may arrive with other strides than were traced.
    """
    for node in graph_module.graph.find_nodes(
        op="call_function", target=torch.ops.aten.view.default
    ):
        node.target = torch.ops.aten.reshape.default
    for target, place in CONTIGUOUS_GRADIENTS.items():
        for node in graph_module.graph.find_nodes(op="call_function", target=target):
            _lay_out(graph_module.graph, node, node.args[place])
    take_one_list(graph_module.graph)
    generate_code(graph_module)
    return mark_boxed(graph_module.forward)


def _lay_out(graph: fx.Graph, node: fx.Node, gradient: fx.Node) -> None:
    """Give a kernel a gradient as it was traced: contiguous, maybe with channels last."""
    traced = gradient.meta.get("val")
    kept: dict[str, Any] = {}
    if traced is not None:
        kept["memory_format"] = suggest_memory_format(traced)
    with graph.inserting_before(node):
        laid_out = graph.call_method("contiguous", (gradient,), kept)
    node.replace_input_with(gradient, laid_out)


def mark_boxed(function: Callable[..., Any]) -> Callable[[list[Any]], Any]:
    """Tell AOTAutograd that this callable takes one list of inputs and empties it."""

    def run(args: list[Any]) -> Any:
        return function(args)

    run._boxed_call = True  # type: ignore[attr-defined]
    return run


def with_eager_gradients(
    compiled: Callable[..., Any],
    arrivals_of: Callable[[], tuple[int, ...]],
    refusing: Callable[[], None],
) -> Callable[..., Any]:
    """Pass gradients to the compiled backward as eager autograd would.

    A gradient that does not arrive is ``None``. AOTAutograd's node would materialize zeros of the
    output's size, which takes memory and can change the order of sums. A backward that is to be
    differentiated again raises at once, while the error can still say why.

    Args:
        compiled: AOTAutograd's callable.
        arrivals_of: Returns positions among the tensors given, in the order in which their
            gradients must arrive; empty for any order. The youngest nodes run first, so each tensor
            gets a node of its own, and the first tensor gets the last node.
        refusing: Called before a backward that is to be differentiated again is refused.
    """

    def run(*args: Any) -> Any:
        arrivals = arrivals_of()
        if arrivals:
            given = list(args)
            tensors = [at for at, arg in enumerate(args) if isinstance(arg, torch.Tensor)]
            for at in reversed(arrivals):
                given[tensors[at]] = given[tensors[at]].view_as(given[tensors[at]])
            args = tuple(given)
        outputs = compiled(*args)
        seen: list[Any] = []
        for output in outputs if isinstance(outputs, (tuple, list)) else (outputs,):
            node = compiled_node(output.grad_fn if isinstance(output, torch.Tensor) else None)
            if node is not None and node not in seen:
                seen.append(node)
                node.set_materialize_grads(False)
                node.register_prehook(functools.partial(_check_backward, refusing))
        return outputs

    return run


def compiled_node(node: Any) -> Any:
    """The node of a compiled graph that returned a tensor with this node; None if none did."""
    while node is not None:
        if node.name() == _COMPILED_NODE:
            return node
        # An output that is a view of what the graph returned: the node is one further up.
        parents = [parent for parent, _ in node.next_functions if parent is not None]
        node = parents[0] if len(parents) == 1 else None
    return None


def saved_by_graphs(node: Any, before: Iterable[Any]) -> Iterator[torch.Tensor]:
    """What compiled graphs have saved for a backward that begins at a node.

    Args:
        node: The node.
        before: Nodes that made the inputs of the graphs: what others have saved is not asked for,
            and may be freed already.
    """
    nodes = [node]
    seen = {node, *before}
    while nodes:
        node = nodes.pop()
        if node.name() == _COMPILED_NODE:
            # Freed, if another backward from these graphs has run.
            with contextlib.suppress(RuntimeError):
                yield from node.saved_tensors
        above = {parent for parent, _ in node.next_functions if parent is not None} - seen
        seen |= above
        nodes.extend(above)


def _check_backward(refusing: Callable[[], None], _: Any) -> None:
    # The engine runs a backward with grad mode on exactly when create_graph=True.
    if torch.is_grad_enabled():
        refusing()
        raise DoubleBackwardError
    if any(torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")):
        warnings.warn(
            "a backward runs inside of torch.autocast, where eager PyTorch casts its operations "
            "too: the gradients may differ from eager's in their last bits. Call backward() "
            "after the autocast block, as PyTorch's documentation advises.",
            stacklevel=1,
        )
