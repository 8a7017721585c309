"""The private names of torch that autockpt needs, and a check that the installed torch has them.

The table is tested against the code of this folder: a name that the code uses and the table lacks,
or the other way round, fails a test. Tested with torch 2.11 to 2.15.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any

import torch

from autockpt.errors import TorchVersionError

OLDEST, NEWEST = "2.11", "2.15"
_AOT = "torch._functorch._aot_autograd"

# By dotted path: the parameters that autockpt passes by keyword, or that a replacement relies on.
NEEDED: Mapping[str, tuple[str, ...]] = {
    # Compiling a forward and reading Dynamo's errors.
    "torch._dynamo.error_on_graph_break": ("error_on_graph_break",),
    "torch._dynamo.graph_break": (),
    "torch._dynamo.maybe_mark_dynamic": ("t", "index"),
    "torch._dynamo.utils.guard_failures": (),
    "torch._dynamo.exc.TorchDynamoException": (),
    "torch._dynamo.exc.Unsupported": (),
    "torch._dynamo.exc.UserError": (),
    "torch._dynamo.resume_execution.TORCH_DYNAMO_RESUME_IN_PREFIX": (),
    "torch._dynamo.config.patch": (),
    "torch._dynamo.config.ignore_logging_functions": (),
    "torch._dynamo.config.reorderable_logging_functions": (),
    "torch._dynamo.exc.unimplemented": ("gb_type", "context", "explanation", "hints"),
    "torch._dynamo.source.AttrSource": (),
    "torch._dynamo.source.CallFunctionNoArgsSource": (),
    "torch._dynamo.variables.ConstantVariable.create": (),
    "torch._dynamo.variables.base.VariableTracker": (),
    "torch._dynamo.variables.builder.VariableBuilder": (),
    "torch._dynamo.variables.misc.DebuggingVariable.call_function": (),
    "torch._dynamo.variables.misc.LoggingLoggerVariable.call_method": (),
    "torch._dynamo.variables.user_defined.UserDefinedObjectVariable.call_method": (),
    "torch._dynamo.variables.torch.tracing_state_functions": (),
    "torch._dynamo.decorators.substitute_in_graph": (),
    "torch._dynamo.trace_rules._polyfilled_function_ids": (),
    "torch._dynamo.trace_rules.get_torch_obj_rule_map": (),
    "torch._dynamo.variables.PolyfilledFunctionVariable._get_polyfill_handlers": (),
    "torch._dynamo.variables.builder.VariableBuilder._id_dispatch": (),
    "torch.amp.autocast_mode._enter_autocast": (),
    "torch.amp.autocast_mode._exit_autocast": (),
    # AOTAutograd, and cutting a joint graph in two.
    "torch._dynamo.backends.common.aot_autograd": (),
    "torch._functorch.config.patch": (),
    "torch._functorch.partitioners.classify_nodes": (
        *("joint_module", "static_lifetime_input_indices", "num_fwd_outputs"),
    ),
    "torch._functorch.partitioners.default_partition": ("num_fwd_outputs",),
    "torch._functorch.partitioners._extract_fwd_bwd_modules": (
        *("joint_module", "saved_values", "saved_sym_nodes", "num_fwd_outputs"),
        "static_lifetime_input_nodes",
    ),
    f"{_AOT}.graph_compile.collect_bw_donated_buffer_idxs": (),
    f"{_AOT}.runtime_wrappers.AOTDispatchAutograd.process_runtime_tangent": (),
    # Graphs and the sizes in them.
    "torch.fx.graph._BoxedCodeGen": (),
    "torch.fx._lazy_graph_module._LazyGraphModule.force_recompile": ("gm",),
    "torch.fx._lazy_graph_module._use_lazy_graph_module": ("should_use",),
    "torch.fx.experimental.proxy_tensor.is_sym_node": (),
    "torch.fx.experimental.symbolic_shapes.GuardOnDataDependentSymNode": (),
    "torch.fx.experimental.symbolic_shapes.statically_known_true": (),
    "torch.fx.passes.split_module.split_module": ("keep_original_order",),
    # Fake tensors, modes and dispatch.
    "torch._subclasses.fake_tensor.FakeTensor": (),
    "torch._subclasses.fake_tensor.FakeTensorMode": (
        *("allow_non_fake_inputs", "allow_fallback_kernels"),
    ),
    "torch._subclasses.fake_tensor.FakeTensorMode.cache_clear": (),
    "torch._subclasses.fake_tensor.DataDependentOutputException": (),
    "torch._subclasses.fake_tensor.DynamicOutputShapeException": (),
    "torch._subclasses.fake_tensor.UnsupportedFakeTensorException": (),
    "torch._subclasses.fake_tensor.UnsupportedOperatorException": (),
    "torch._subclasses.fake_tensor.unset_fake_temporarily": (),
    "torch._subclasses.functional_tensor.FunctionalTensorMode": (),
    "torch.utils._python_dispatch.TorchDispatchMode": (),
    "torch.utils._python_dispatch._disable_current_modes": (),
    "torch._C.DispatchKey": (),
    "torch._dispatch.python.enable_python_dispatcher": (),
    "torch.library.Library._destroy": (),
    "torch.autograd._get_sequence_nr": (),
    "torch._C._current_autograd_node": (),
    "torch.autograd.Variable._execution_engine.queue_callback": (),
    "torch.autograd.graph.Node._sequence_nr": (),
    "torch.ops.aten.add.Tensor._overloadname": (),
    "torch._C._set_grad_enabled": (),
    "torch._C._autograd._profiler_enabled": (),
    "torch._C._autograd._get_current_graph_task_keep_graph": (),
    "torch._C._current_graph_task_id": (),
    "torch._C._functorch.peek_interpreter_stack": (),
    # Operators, their schemas and the Python kernels that tracing takes.
    "torch._decomp.decomposition_table": (),
    "torch._decomp.decompositions.native_batch_norm": (),
    "torch._refs.native_group_norm": (),
    "torch._refs.native_layer_norm": (),
    "torch._refs.roll": (),
    "torch._subclasses.fake_tensor.torch_decomp_decompositions.cache_clear": (),
    "torch._decomp.decompositions.native_batch_norm_backward": (),
    "torch._refs": (),
    "torch._prims_common.suggest_memory_format": ("x",),
    "torch._ops.OpOverload": (),
    "torch.ops.aten._local_scalar_dense.default": (),
    "torch.ops.aten._to_copy.default": (),
    "torch.ops.aten._native_batch_norm_legit_functional.default": (),
    "torch.ops.aten._scaled_dot_product_attention_math.default": (),
    "torch.ops.aten._scaled_dot_product_cudnn_attention.default": (),
    "torch.ops.aten._scaled_dot_product_efficient_attention.default": (),
    "torch.ops.aten._scaled_dot_product_flash_attention.default": (),
    "torch.ops.aten._fused_rms_norm.default": (),
    "torch.ops.aten._native_batch_norm_legit.no_stats": (),
    "torch.ops.aten._weight_norm_interface_backward.default": (),
    "torch.ops.aten._cdist_backward.default": (),
    "torch.ops.aten.add.Tensor._schema": (),
    "torch.ops.aten.add.Tensor._opname": (),
    "torch.ops.aten.add.Tensor._op_dk": (),
    "torch.ops.aten.add.Tensor._dispatch_cache": (),
    "torch.ops.aten.add.Tensor.py_kernels": (),
    "torch.ops.aten.add.Tensor.python_key_table": (),
    # Containers, tensors and modules.
    "torch._C.DisableTorchFunctionSubclass": (),
    "torch.utils._pytree.tree_flatten": (),
    "torch.utils._pytree.tree_leaves": (),
    "torch.utils._pytree.tree_map": (),
    "torch.utils._pytree.tree_unflatten": (),
    "torch.optim.optimizer._global_optimizer_post_hooks": (),
    "torch.optim.optimizer._global_optimizer_pre_hooks": (),
    "torch.UntypedStorage._cdata": (),
    "torch.Tensor._version": (),
    "torch.Tensor._use_count": (),
    "torch._C._autograd._unsafe_set_version_counter": (),
    "torch.Tensor._post_accumulate_grad_hooks": (),
    "torch.nn.Module._parameters": (),
    "torch.nn.Module._buffers": (),
    "torch.nn.Module._modules": (),
    "torch.nn.Module._forward_hooks": (),
    "torch.nn.Module._backward_hooks": (),
    "torch.nn.Module._backward_pre_hooks": (),
    "torch._C._storage_Use_Count": (),
    "torch.nn.Module._forward_pre_hooks": (),
    "torch.nn.modules.module._has_any_global_hook": (),
}
# Needed only in builds of torch that have `torch.distributed`.
DISTRIBUTED: Mapping[str, tuple[str, ...]] = {
    "torch.distributed.distributed_c10d._get_default_store": (),
    "torch.nn.parallel.DistributedDataParallel._get_active_ddp_module": (),
    "torch.nn.parallel.DistributedDataParallel._inside_ddp_forward": (),
    "torch.distributed.fsdp.FSDPModule._get_fsdp_state": (),
}
# Read where they are set, in objects that only exist while a model is sharded or compiled.
OF_INSTANCES = frozenset({"_fsdp_param_group", "_fsdp_param_groups", "_boxed_call", "_codegen"})


def check_torch() -> None:
    """Check that the installed torch has every private name that autockpt needs.

    Raises:
        TorchVersionError: Some are missing, or take other parameters.
    """
    needed = dict(NEEDED)
    if torch.distributed.is_available():
        needed |= DISTRIBUTED
    missing = missing_names(needed)
    if missing:
        raise TorchVersionError(
            installed=torch.__version__, oldest=OLDEST, newest=NEWEST, missing=missing
        )


def missing_names(needed: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The names in a table that the installed torch lacks, in its order.

    A function that lacks a parameter is named with that parameter.
    """
    missing = []
    for path, parameters in needed.items():
        try:
            found = pkgutil.resolve_name(path)
        except (ImportError, AttributeError):
            if not _is_annotated(path):
                missing.append(path)
            continue
        missing += [f"{path}({name}=...)" for name in parameters if not _takes(found, name)]
    return tuple(missing)


def _is_annotated(path: str) -> bool:
    """Whether a name is an attribute of a class's instances, by the class's annotations."""
    owner_path, _, name = path.rpartition(".")
    try:
        owner = pkgutil.resolve_name(owner_path)
    except (ImportError, AttributeError):
        return False
    return isinstance(owner, type) and name in inspect.get_annotations(owner)


def _takes(function: Any, name: str) -> bool:
    try:
        return name in inspect.signature(function).parameters
    except ValueError:  # some builtins have no signature that Python can read
        return True
