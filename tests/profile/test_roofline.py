"""Estimated costs follow the rates of the device that they are for."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import fx, nn

import autockpt
from autockpt.devices.device import ALLOCATION_BYTES
from autockpt.devices.lookup import find_device
from autockpt.devices.table import DEVICES, GENERIC_CPU
from autockpt.profile.roofline import device_of, is_known, roofline


def test_meta_tensors_are_planned_for_a_cpu_by_default() -> None:
    assert device_of(torch.device("meta")) is GENERIC_CPU
    assert device_of(torch.device("cpu")) is GENERIC_CPU
    assert is_known(torch.device("cpu"))


def test_an_accelerator_without_known_rates_is_estimated_as_another_and_told() -> None:
    assert device_of(torch.device("mtia")) is DEVICES["h100"]
    assert not is_known(torch.device("mtia"))


def test_a_slower_device_takes_longer() -> None:
    h100 = find_device("h100")
    slow = dataclasses.replace(h100, name="slow", bytes_per_s=h100.bytes_per_s / 1e4, launch_ns=0)
    with torch.device("meta"):
        model, x = nn.Sequential(nn.Linear(64, 64), nn.GELU()), torch.randn(8, 64)

    def step_ns(device: object) -> int:
        plan = autockpt.plan(model, "100%", sample_args=(x,), method="none", device=device)  # type: ignore[arg-type]
        assert plan.cost_source == "roofline"
        assert plan.device == getattr(device, "name", "cpu")
        return plan.baseline_step_ns

    assert step_ns(slow) > 2 * step_ns(h100)


def _node(operator: object, *args: object) -> fx.Node:
    graph = fx.Graph()
    nodes = []
    for arg in args:
        is_tensor = isinstance(arg, torch.Tensor)
        nodes.append(graph.placeholder(f"x{len(nodes)}") if is_tensor else arg)
        if is_tensor:
            nodes[-1].meta["val"] = arg  # type: ignore[union-attr]
    node = graph.call_function(operator, tuple(nodes))  # type: ignore[arg-type]
    node.meta["val"] = operator(*args)  # type: ignore[operator]
    return node


@pytest.mark.parametrize(
    ("dtype", "rate"),
    [(torch.float32, 67e12), (torch.bfloat16, 989e12), (torch.float64, 67e12)],
)
def test_a_product_takes_its_arithmetic_at_the_share_of_the_peak(
    dtype: torch.dtype, rate: float
) -> None:
    """Without TF32 for products in float32: PyTorch's default."""
    x = torch.empty(8192, 8192, dtype=dtype, device="meta")
    cost = roofline(_node(torch.ops.aten.mm.default, x, x), find_device("h100"))
    assert cost.runtime_ns == int(2 * 8192**3 / (0.72 * rate) * 1e9)


def test_a_convolution_in_float32_runs_in_tf32_by_default() -> None:
    x = torch.empty(32, 256, 56, 56, device="meta")
    w = torch.empty(256, 256, 3, 3, device="meta")
    conv = torch.ops.aten.convolution.default
    args = (x, w, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)
    cost = roofline(_node(conv, *args), find_device("h100"))
    flops = 2 * x.numel() * 256 * 9
    assert cost.runtime_ns == int(flops / (0.45 * 494.5e12) * 1e9)


def test_elementwise_operators_take_their_traffic_or_a_launch() -> None:
    large = torch.empty(2**28, device="meta")
    h100 = find_device("h100")
    cost = roofline(_node(torch.ops.aten.gelu.default, large), h100)
    assert cost.runtime_ns == int(2 * 2**30 / (0.85 * 3.35e12) * 1e9)
    small = roofline(_node(torch.ops.aten.gelu.default, torch.empty(8, device="meta")), h100)
    assert small.runtime_ns == h100.launch_ns


def test_allocations_are_whole_units_on_an_accelerator() -> None:
    """The caching allocator gives out 512 bytes for a tensor of four."""
    with torch.device("meta"):
        model, x = nn.Linear(3, 3), torch.randn(2, 3)
    on_cpu = autockpt.plan(model, "100%", sample_args=(x,), optimizer="sgd")
    on_gpu = autockpt.plan(model, "100%", sample_args=(x,), optimizer="sgd", device="v100")
    assert on_cpu.fixed.parameters_bytes == 4 * 12
    assert on_gpu.fixed.parameters_bytes == 2 * ALLOCATION_BYTES
    assert on_gpu.graph is not None
    assert all(s.size_bytes % ALLOCATION_BYTES == 0 for s in on_gpu.graph.storages)
    assert on_gpu.fixed.workspace_bytes == 2 * 8_519_680
    assert on_gpu.context_bytes == 512 * 2**20


def test_the_optimizer_of_an_accelerator_steps_all_parameters_at_once() -> None:
    """torch's default there: its temporaries are as large as all gradients."""
    with torch.device("meta"):
        model, x = nn.Sequential(*(nn.Linear(512, 512) for _ in range(8))), torch.randn(1, 512)
    on_cpu = autockpt.plan(model, "100%", sample_args=(x,))
    on_gpu = autockpt.plan(model, "100%", sample_args=(x,), device="h100")
    step = [p.graph.ops[-1].workspace_bytes for p in (on_cpu, on_gpu) if p.graph is not None]
    assert step[1] > 3 * step[0]
    assert step[1] > 8 * 2**20


class _Attention(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.qkv = nn.Linear(64, 192, dtype=dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, 16)).permute(2, 0, 3, 1, 4).unbind(0)
        out = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=0.1)
        return nn.functional.dropout(out, 0.1).float().square().mean()


@pytest.mark.parametrize(
    ("device", "dtype", "kernel"),
    [
        ("h100", torch.bfloat16, "_scaled_dot_product_flash_attention"),
        ("h100", torch.float32, "_scaled_dot_product_efficient_attention"),
        ("t4", torch.float16, "_scaled_dot_product_efficient_attention"),
        ("t4", torch.bfloat16, "_safe_softmax"),
    ],
)
def test_operators_are_those_that_cuda_runs(device: str, dtype: torch.dtype, kernel: str) -> None:
    """The CPU's attention and dropout were planned for accelerators too."""
    with torch.device("meta"):
        model, x = _Attention(dtype), torch.randn(2, 32, 64, dtype=dtype)
    plan = autockpt.plan(model, "100%", sample_args=(x,), device=device)
    assert plan.graph is not None
    names = {op.name for op in plan.graph.ops}
    assert kernel in names
    assert "native_dropout" in names
    assert not any("for_cpu" in name or "keep_mask" in name for name in names)


def test_batch_norm_is_cudnns_and_updates_its_statistics_once() -> None:
    with torch.device("meta"):
        parts = (nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU()) * 3
        model, x = nn.Sequential(*parts), torch.randn(4, 8, 16, 16)
    plan = autockpt.plan(model, "100%", sample_args=(x,), loss_fn=torch.sum, device="a100")
    assert plan.graph is not None
    norms = [op for op in plan.graph.ops if op.name.startswith("cudnn_batch_norm")]
    assert [op.is_backward for op in norms] == [False] * 3 + [True] * 3


def test_autocast_casts_as_cudas_does() -> None:
    """The CPU's autocast leaves a softmax in bfloat16; CUDA's makes it float32."""

    class Cast(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(64, 64)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return self.linear(x).softmax(-1).sum()

    with torch.device("meta"):
        model, x = Cast(), torch.randn(128, 64)
    sizes = []
    for device in (None, "h100"):
        plan = autockpt.plan(model, "100%", sample_args=(x,), device=device)
        assert plan.graph is not None
        softmax = next(op for op in plan.graph.ops if op.name == "_softmax")
        sizes.append(plan.graph.storages[softmax.writes[0]].size_bytes)
    assert sizes == [128 * 64 * 2, 128 * 64 * 4]


def test_the_cpus_own_plan_is_the_same_before_and_after() -> None:
    """Tracing for another device puts everything back."""
    with torch.device("meta"):
        model, x = _Attention(torch.float32), torch.randn(2, 32, 64)
    before = autockpt.plan(model, "100%", sample_args=(x,))
    autockpt.plan(model, "100%", sample_args=(x,), device="h100")
    after = autockpt.plan(model, "100%", sample_args=(x,))
    assert before.graph == after.graph
