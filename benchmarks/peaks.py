"""Predicted beside measured peak of whole training steps: twenty models in many kinds of loops.

    python benchmarks/peaks.py [--models gpt2,opt] [--output FILE]

Every model trains at four budgets. Optimizer, accumulation, the place of the loss and what the loop
keeps change from row to row, so that all their combinations appear.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

import autockpt
from autockpt import zoo
from autockpt.budget import Budget
from autockpt.torch_private.pytree import tree_leaves
from autockpt.verify.live_bytes import distinct_bytes
from autockpt.verify.peak import measure_peak_bytes
from autockpt.zoo import Example

_BUDGETS = ("85%", "70%", "55%", "the smallest")
_NUM_STEPS = 3
_MIB = 2**20


def _adafactor(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    from transformers.optimization import Adafactor

    return Adafactor(parameters, lr=1e-4, relative_step=False, scale_parameter=False)


_OPTIMIZERS: dict[str, Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]] = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=1e-3),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=1e-3, momentum=0.9),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=1e-4),
    "Adafactor": _adafactor,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of loop: the optimizer, micro-batches of a step, and what lives through a backward."""

    optimizer: str
    num_micro: int
    keeps_output: bool
    is_loss_inside: bool

    def __str__(self) -> str:
        words = [self.optimizer, "loss inside" if self.is_loss_inside else "loss outside"]
        if self.num_micro > 1:
            words.append("accumulated")
        if self.keeps_output:
            words.append("output kept")
        return ", ".join(words)


class WithLoss(torch.nn.Module):
    """A model whose forward returns its loss alone."""

    def __init__(self, example: Example) -> None:
        super().__init__()
        self.inner = example.model
        self.loss_of = example.loss_of

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The model's loss."""
        return self.loss_of(self.inner(*args, **kwargs))


def main() -> None:
    """Measure, print a table, write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--models", default="all")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    known = {**_CONFIGURED, **{name: _zoo(name) for name in zoo.names()}}
    names = list(known) if options.models == "all" else options.models.split(",")
    rows: list[tuple[str, ...]] = []
    for name in names:
        for position, budget in enumerate(_BUDGETS):
            started_s = time.perf_counter()
            # A model's four rows have four optimizers; the other choices go through all eight.
            number = 3 * list(known).index(name) + 5 * position
            kind = Kind(
                optimizer=list(_OPTIMIZERS)[(list(known).index(name) + position) % 4],
                num_micro=1 + number % 2,
                keeps_output=number // 2 % 2 == 0,
                is_loss_inside=number // 4 % 2 == 0,
            )
            rows.append(_row(name, known[name](), budget, kind))
            seconds = time.perf_counter() - started_s
            print(" | ".join(rows[-1]), f"({seconds:.0f} s)", flush=True)
        if options.output is not None:
            options.output.write_text(_document(rows), encoding="utf-8")
    print(_document(rows))


def _row(name: str, example: Example, budget: str, kind: Kind) -> tuple[str, ...]:
    model: torch.nn.Module = WithLoss(example) if kind.is_loss_inside else example.model
    optimizer = _OPTIMIZERS[kind.optimizer]([p for p in model.parameters() if p.requires_grad])
    args, kwargs = example.args, dict(example.kwargs)
    # `loss / n` would be bytes that the loop computes beside the model: a plan counts a loss once.
    weight = torch.tensor(1 / kind.num_micro)

    def step() -> None:
        for _ in range(kind.num_micro):
            output = model(*args, **kwargs)
            loss = output if kind.is_loss_inside else example.loss_of(output)
            if not kind.keeps_output:
                del output
            loss.backward(weight.to(loss.dtype))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def optimize(given: str | Budget) -> None:
        autockpt.optimize(model, given, optimizer=optimizer, method="greedy", time_limit_s=10)
        for _ in range(_NUM_STEPS):
            step()

    try:
        optimize("10%" if budget == "the smallest" else budget)
    except autockpt.BudgetError as error:
        budget = "the smallest"
        autockpt.restore(model)
        optimizer.zero_grad(set_to_none=True)
        optimize(Budget(bytes=error.minimum_peak_bytes))
    plan = autockpt.get_plan(model)
    assert plan is not None
    state = [optimizer.state.get(p, {}) for p in model.parameters()]
    resting_bytes = distinct_bytes(
        tree_leaves([list(model.parameters()), list(model.buffers()), state, args, kwargs])
    )
    measured_bytes = resting_bytes + measure_peak_bytes(step)
    difference_bytes = measured_bytes - plan.predicted_peak_bytes
    return (
        name,
        budget,
        str(kind),
        plan.rung,
        f"{plan.budget_bytes / _MIB:.2f}",
        f"{plan.predicted_peak_bytes / _MIB:.2f}",
        f"{measured_bytes / _MIB:.2f}",
        f"{difference_bytes / plan.predicted_peak_bytes:+.2%}",
        "yes" if measured_bytes <= plan.budget_bytes else f"OVER by {difference_bytes} B",
    )


def _zoo(name: str) -> Callable[[], Example]:
    return lambda: zoo.build(name, batch=2)


def _tokens(vocabulary: int, batch: int = 4, length: int = 64) -> torch.Tensor:
    return torch.randint(5, vocabulary, (batch, length))


def _opt() -> Example:
    import transformers

    config = transformers.OPTConfig(
        vocab_size=512, hidden_size=128, ffn_dim=512, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=128, word_embed_proj_dim=128,
    )  # fmt: skip
    ids = _tokens(512)
    return Example(
        model=transformers.OPTForCausalLM(config), kwargs={"input_ids": ids, "labels": ids}
    )


def _qwen2() -> Example:
    import transformers

    config = transformers.Qwen2Config(
        vocab_size=1024, hidden_size=128, intermediate_size=384, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    ids = _tokens(1024)
    return Example(
        model=transformers.Qwen2ForCausalLM(config), kwargs={"input_ids": ids, "labels": ids}
    )


def _distilbert() -> Example:
    import transformers

    config = transformers.DistilBertConfig(
        vocab_size=512, dim=128, hidden_dim=512, n_layers=4, n_heads=4, max_position_embeddings=64
    )
    labels = torch.randint(0, 2, (4,))
    return Example(
        model=transformers.DistilBertForSequenceClassification(config),
        kwargs={"input_ids": _tokens(512), "labels": labels},
    )


def _electra() -> Example:
    import transformers

    config = transformers.ElectraConfig(
        vocab_size=512, embedding_size=64, hidden_size=128, num_hidden_layers=4,
        num_attention_heads=4, intermediate_size=512, max_position_embeddings=64,
    )  # fmt: skip
    return Example(
        model=transformers.ElectraForTokenClassification(config),
        kwargs={"input_ids": _tokens(512), "labels": torch.randint(0, 2, (4, 64))},
    )


def _bart() -> Example:
    import transformers

    config = transformers.BartConfig(
        vocab_size=512, d_model=128, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=512,
        decoder_ffn_dim=512, encoder_attention_heads=4, decoder_attention_heads=4,
        max_position_embeddings=128,
    )  # fmt: skip
    ids = _tokens(512)
    return Example(
        model=transformers.BartForConditionalGeneration(config),
        kwargs={"input_ids": ids, "labels": ids},
    )


def _segformer() -> Example:
    import transformers

    config = transformers.SegformerConfig(
        hidden_sizes=[16, 32, 64, 128], depths=[2, 2, 2, 2], decoder_hidden_size=64, num_labels=8
    )
    return Example(
        model=transformers.SegformerForSemanticSegmentation(config),
        kwargs={
            "pixel_values": torch.randn(2, 3, 64, 64),
            "labels": torch.randint(0, 8, (2, 64, 64)),
        },
    )


class _Residual(torch.nn.Module):
    """A plain network of convolutions with a loss that the loop computes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 32, 3, padding=1)
        self.blocks = torch.nn.ModuleList(
            torch.nn.Sequential(
                torch.nn.Conv2d(32, 32, 3, padding=1), torch.nn.BatchNorm2d(32), torch.nn.GELU()
            )
            for _ in range(6)
        )
        self.head = torch.nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x.mean((2, 3)))


def _residual() -> Example:
    labels = torch.randint(0, 10, (8,))
    return Example(
        model=_Residual(),
        args=(torch.randn(8, 3, 32, 32),),
        loss_fn=lambda output: functional.cross_entropy(output, labels),
    )


_CONFIGURED: dict[str, Callable[[], Example]] = {
    "opt": _opt,
    "qwen2": _qwen2,
    "distilbert": _distilbert,
    "electra": _electra,
    "bart": _bart,
    "segformer": _segformer,
    "residual": _residual,
}


def _document(rows: list[tuple[str, ...]]) -> str:
    off = sorted(abs(float(row[7].rstrip("%"))) for row in rows)
    header = (
        "model", "budget", "loop", "rung", "budget MiB", "predicted", "measured", "difference",
        "within the budget",
    )  # fmt: skip
    lines = [
        "# Peaks",
        "",
        f"Made on {dt.datetime.now(tz=dt.UTC).date()} by `python benchmarks/peaks.py` on a CPU",
        f"({platform.machine()}, torch {torch.__version__}): the peak of a whole training step,",
        "optimizer included, as the plan predicts it and as the profiler measures it. Adafactor is",
        "the one of transformers.",
        "",
        "`loss / n` in an accumulating loop takes bytes of the loop's own (4 here), so these loops",
        "give `backward` the weight instead.",
        "",
        f"{len(rows)} steps of {len({row[0] for row in rows})} models; the largest difference is "
        f"{off[-1]:.2f}%, the median "
        f"{off[len(off) // 2]:.2f}%; {sum('OVER' in row[8] for row in rows)} over their budget.",
        "",
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
    ]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
