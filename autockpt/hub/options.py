"""What you choose for a model that is built from a configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_DTYPES = {
    "fp32": "fp32",
    "float32": "fp32",
    "bf16": "bf16",
    "bfloat16": "bf16",
    "fp16": "fp16",
    "float16": "fp16",
}
_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_ATTENTIONS = ("sdpa", "eager")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubOptions:
    """Choices for a model and its batch.

    Attributes:
        batch: Number of sequences, images or recordings.
        seq: Tokens of a sequence; None for the model's usual number, at most 2,048.
        dtype: Type of the parameters: `"fp32"`, `"bf16"` or `"fp16"`.
        autocast: Type that autocast computes in, or None for no autocast.
        attention: `"sdpa"` for `scaled_dot_product_attention`, `"eager"` for matrix products; None
            for the first if the model has it.
        lora: Rank of the adapters, if only those are trained; None trains all parameters.
    """

    batch: int = 8
    seq: int | None = None
    dtype: str = "fp32"
    autocast: str | None = None
    attention: str | None = None
    lora: int | None = None

    def __post_init__(self) -> None:
        for name in ("batch", "seq", "lora"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be 1 or more")
        for name in ("dtype", "autocast"):
            value = getattr(self, name)
            if value is None:
                continue
            if value.lower() not in _DTYPES:
                raise ValueError(f"{name} is {value!r}; it must be fp32, bf16 or fp16")
            object.__setattr__(self, name, _DTYPES[value.lower()])
        if self.autocast == "fp32":
            raise ValueError("autocast is 'fp32'; it must be bf16 or fp16, or be left out")
        if self.attention not in (None, *_ATTENTIONS):
            raise ValueError(f"attention is {self.attention!r}; it must be sdpa or eager")

    @property
    def torch_dtype(self) -> torch.dtype:
        """Type of the parameters."""
        return _torch_dtype(self.dtype)

    @property
    def autocast_dtype(self) -> torch.dtype | None:
        """Type that autocast computes in."""
        return None if self.autocast is None else _torch_dtype(self.autocast)


def _torch_dtype(name: str) -> torch.dtype:
    import torch

    dtype = getattr(torch, _NAMES[name])
    assert isinstance(dtype, torch.dtype)
    return dtype
