"""The devices that are known by name, with the numbers of their vendors' public sheets.

Rates are dense: what a sheet states "with sparsity" is halved. Memory is what the driver reports,
which is what PyTorch prints as the "total capacity" when it runs out: less than on the box, because
firmware and error correction take some.

Shares of the peak rates that kernels reach, from published measurements:

- matmul: the largest rates that were measured with cuBLAS are 87% of the peak on the A100, 80% on
  the H100, 78% on the B200 and 57% on the MI300X (S. Bekman, "Machine Learning Engineering Open
  Book", chapter on accelerators, table of maximum achievable matmul FLOPS). The shapes of a model
  reach a little less; a tenth is taken off.
- attention: FlashAttention-2 reaches 73% of the A100's peak forward and 63% backward at best, 50 to
  60% at 1k to 2k tokens (Dao, 2023, figures 4 to 6). On the H100, cuDNN reaches 574 to 617 TFLOPS
  forward at 1k to 4k tokens with heads of 128, 60% (Shah et al., FlashAttention-3, 2024, figure 5),
  and about 45% backward (figure 6).
- convolution: MLPerf Training and NVIDIA's ResNet-50 examples reach 2,500 to 2,900 images/s on an
  A100, of which convolutions take about half of the time: 45% of the peak.
- elementwise: BabelStream reaches 85 to 92% of the sheets' bandwidth on A100 and H100.
- normalization: Triton's tutorial on layer normalization shows PyTorch's kernel at about 70% of an
  A100's bandwidth forward, and below a half of it backward.
"""

from __future__ import annotations

from autockpt.devices.device import Device, Efficiency, PeakRates

_TERA = 1e12
_GIB = 2**30
_PCIE_3, _PCIE_4, _PCIE_5 = 16e9, 32e9, 64e9  # 16 lanes, one direction

_V100 = PeakRates(fp64=7.8 * _TERA, fp32=15.7 * _TERA, fp16=125 * _TERA)
_A100 = PeakRates(
    fp64=19.5 * _TERA, fp32=19.5 * _TERA, tf32=156 * _TERA, fp16=312 * _TERA, bf16=312 * _TERA
)
_A100_EFFICIENCY = Efficiency(matmul=0.78, attention=0.60, attention_backward=0.52)
_HOPPER_EFFICIENCY = Efficiency(matmul=0.72, attention=0.60, attention_backward=0.45)
_HOPPER = PeakRates(
    fp64=67 * _TERA, fp32=67 * _TERA, tf32=494.5 * _TERA, fp16=989 * _TERA, bf16=989 * _TERA
)

_DEVICES = (
    Device(
        name="v100",
        title="NVIDIA V100 SXM2 32GB",
        source="NVIDIA V100 Tensor Core GPU, data sheet (2020)",
        memory_bytes=int(31.75 * _GIB),
        bytes_per_s=900e9,
        host_bytes_per_s=_PCIE_3,
        rates=_V100,
        capability=(7, 0),
    ),
    Device(
        name="t4",
        title="NVIDIA T4",
        source="NVIDIA T4 Tensor Core GPU, data sheet (2019)",
        memory_bytes=int(14.75 * _GIB),
        bytes_per_s=320e9,
        host_bytes_per_s=_PCIE_3,
        rates=PeakRates(fp64=0.253 * _TERA, fp32=8.1 * _TERA, fp16=65 * _TERA),
        capability=(7, 5),
    ),
    Device(
        name="a100-40",
        title="NVIDIA A100 SXM 40GB",
        source="NVIDIA A100 Tensor Core GPU, data sheet (2020)",
        memory_bytes=int(39.59 * _GIB),
        bytes_per_s=1555e9,
        host_bytes_per_s=_PCIE_4,
        rates=_A100,
        capability=(8, 0),
        efficiency=_A100_EFFICIENCY,
    ),
    Device(
        name="a100-80",
        title="NVIDIA A100 SXM 80GB",
        source="NVIDIA A100 Tensor Core GPU, data sheet (2021)",
        memory_bytes=int(79.15 * _GIB),
        bytes_per_s=2039e9,
        host_bytes_per_s=_PCIE_4,
        rates=_A100,
        capability=(8, 0),
        efficiency=_A100_EFFICIENCY,
    ),
    Device(
        name="h100",
        title="NVIDIA H100 SXM 80GB",
        source="NVIDIA H100 Tensor Core GPU, data sheet (2023)",
        memory_bytes=int(79.11 * _GIB),
        bytes_per_s=3.35e12,
        host_bytes_per_s=_PCIE_5,
        rates=_HOPPER,
        capability=(9, 0),
        efficiency=_HOPPER_EFFICIENCY,
    ),
    Device(
        name="h200",
        title="NVIDIA H200 SXM 141GB",
        source="NVIDIA H200 Tensor Core GPU, data sheet (2023)",
        memory_bytes=int(139.81 * _GIB),
        bytes_per_s=4.8e12,
        host_bytes_per_s=_PCIE_5,
        rates=_HOPPER,
        capability=(9, 0),
        efficiency=_HOPPER_EFFICIENCY,
    ),
    Device(
        name="b200",
        title="NVIDIA B200 SXM 180GB",
        source="NVIDIA DGX B200, data sheet (2024): an eighth of the system",
        memory_bytes=int(178.35 * _GIB),
        bytes_per_s=7.7e12,
        host_bytes_per_s=_PCIE_5,
        rates=PeakRates(
            fp64=37 * _TERA,
            fp32=75 * _TERA,
            tf32=1125 * _TERA,
            fp16=2250 * _TERA,
            bf16=2250 * _TERA,
        ),
        capability=(10, 0),
        efficiency=Efficiency(matmul=0.70, attention=0.55, attention_backward=0.42),
    ),
    Device(
        name="l4",
        title="NVIDIA L4",
        source="NVIDIA L4 Tensor Core GPU, data sheet (2023)",
        memory_bytes=int(22.17 * _GIB),
        bytes_per_s=300e9,
        host_bytes_per_s=_PCIE_4,
        rates=PeakRates(
            fp64=0.473 * _TERA,
            fp32=30.3 * _TERA,
            tf32=60 * _TERA,
            fp16=121 * _TERA,
            bf16=121 * _TERA,
        ),
        capability=(8, 9),
    ),
    Device(
        name="l40s",
        title="NVIDIA L40S",
        source="NVIDIA L40S GPU, data sheet (2023)",
        memory_bytes=int(44.42 * _GIB),
        bytes_per_s=864e9,
        host_bytes_per_s=_PCIE_4,
        rates=PeakRates(
            fp64=1.431 * _TERA,
            fp32=91.6 * _TERA,
            tf32=183 * _TERA,
            fp16=362 * _TERA,
            bf16=362 * _TERA,
        ),
        capability=(8, 9),
    ),
    Device(
        name="rtx-3090",
        title="NVIDIA GeForce RTX 3090",
        source="NVIDIA Ampere GA102 GPU Architecture, whitepaper V2 (2021)",
        memory_bytes=int(23.69 * _GIB),
        bytes_per_s=936e9,
        host_bytes_per_s=_PCIE_4,
        rates=PeakRates(
            fp64=0.556 * _TERA,
            fp32=35.6 * _TERA,
            tf32=35.6 * _TERA,
            fp16=71 * _TERA,
            bf16=71 * _TERA,
        ),
        capability=(8, 6),
    ),
    Device(
        name="rtx-4090",
        title="NVIDIA GeForce RTX 4090",
        source="NVIDIA Ada GPU Architecture, whitepaper V2 (2023)",
        memory_bytes=int(23.64 * _GIB),
        bytes_per_s=1008e9,
        host_bytes_per_s=_PCIE_4,
        rates=PeakRates(
            fp64=1.29 * _TERA,
            fp32=82.6 * _TERA,
            tf32=82.6 * _TERA,
            fp16=165.2 * _TERA,
            bf16=165.2 * _TERA,
        ),
        capability=(8, 9),
    ),
    Device(
        name="rtx-5090",
        title="NVIDIA GeForce RTX 5090",
        source="NVIDIA RTX Blackwell GPU Architecture, whitepaper V1.1 (2025)",
        memory_bytes=int(31.36 * _GIB),
        bytes_per_s=1792e9,
        host_bytes_per_s=_PCIE_5,
        rates=PeakRates(
            fp64=1.64 * _TERA,
            fp32=104.8 * _TERA,
            tf32=104.8 * _TERA,
            fp16=209.5 * _TERA,
            bf16=209.5 * _TERA,
        ),
        capability=(12, 0),
    ),
    Device(
        name="mi300x",
        title="AMD Instinct MI300X",
        source="AMD Instinct MI300X Accelerator, data sheet (2023)",
        memory_bytes=int(191.98 * _GIB),
        bytes_per_s=5.3e12,
        host_bytes_per_s=_PCIE_5,
        rates=PeakRates(
            fp64=163.4 * _TERA,
            fp32=163.4 * _TERA,
            tf32=653.7 * _TERA,
            fp16=1307.4 * _TERA,
            bf16=1307.4 * _TERA,
        ),
        capability=None,
        efficiency=Efficiency(matmul=0.51, attention=0.40, attention_backward=0.30),
    ),
)
# What a plan for tensors without data is made for if no device is named: a modest core of a CPU.
GENERIC_CPU = Device(
    name="cpu",
    title="a CPU core",
    source="assumed",
    memory_bytes=16 * _GIB,
    bytes_per_s=1e10,
    host_bytes_per_s=1e10,
    rates=PeakRates(fp64=2.5e10, fp32=5e10, fp16=5e10),
    capability=None,
    efficiency=Efficiency(
        matmul=1.0,
        convolution=1.0,
        attention=1.0,
        attention_backward=1.0,
        normalization=1.0,
        normalization_backward=1.0,
        elementwise=1.0,
    ),
    launch_ns=2_000,
    context_bytes=0,
    is_accelerator=False,
)
DEVICES = {device.name: device for device in _DEVICES}
