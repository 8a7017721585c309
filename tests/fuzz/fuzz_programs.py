"""A random training program from a seed: a module, its data, how it is trained, its budget.

A program is plain data. What a layer reads is a number that is resolved among the values that are
there, so any layer can be left out and the rest is still a program: that is how failures shrink.
"""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import fuzz_handwritten  # noqa: F401 - enters its layers
import fuzz_images  # noqa: F401
import fuzz_modules  # noqa: F401
import torch
from fuzz_layers import LAYERS, Shared, Sizes
from torch import nn

_RARE = {"recurrent": 0.15, "checkpointed": 0.3, "loop_over_time": 0.5, "tied_head": 0.5}
_ORDERS = ("before", "after", "between", "set to zero", "accumulated", "never")
_OUTPUTS = ("loss", "tuple", "dict", "dataclass", "values", "value")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Node:
    """A layer of the program: its name, what it reads (by number), and its own seed."""

    layer: str
    reads: tuple[int, ...]
    seed: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """Everything that a trial needs to know.

    Attributes:
        other_length: Whether every second batch is shorter.
        container: What a batch is given in, as one argument; nothing if it is given as it is.
        order: Where in a step the gradients are cleared.
        num_calls: How many calls there are in a step before a backward.
        is_joined: Whether these have one backward, rather than one each.
        eval_mode: Whether the module is trained in eval mode.
        waits: Whether it is optimized between the first forward and its backward.
    """

    seed: int
    sizes: Sizes
    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    grad_inputs: bool = False
    by_keyword: bool = False
    dtype: str = "float32"
    autocast: bool = False
    channels_last: bool = False
    frozen: bool = False
    output: str = "loss"
    names_loss: bool = True
    optimizer: str = "adamw"
    num_steps: int = 2
    share: float = 0.5
    verify: bool = True
    sampled: bool = True
    other_length: bool = False
    container: str = ""
    order: str = "before"
    num_calls: int = 1
    is_joined: bool = True
    eval_mode: bool = False
    waits: bool = False


def random_program(seed: int) -> Program:
    """The program of a seed, the same on every machine."""
    draw = random.Random(seed)
    sizes = Sizes(
        batch=draw.choice([2, 4, 8]), length=draw.choice([8, 16]), width=16, size=draw.choice([8])
    )
    inputs = tuple(kind for kind in ("seq", "img", "vec", "ids") if draw.random() < 0.45) or (
        draw.choice(["seq", "img"]),
    )
    names = sorted(LAYERS)
    weights = [_RARE.get(name, 1.0) for name in names]
    reachable = set(inputs)
    nodes: list[Node] = []
    count = draw.choice([2, 3, 4, 6, 9])
    while len(nodes) < count:
        name = draw.choices(names, weights)[0]
        if not set(LAYERS[name].takes) <= reachable:
            continue
        reachable.add(LAYERS[name].gives)
        # Mostly what was made last: chains, with long skips now and then.
        reads = tuple(draw.choice([0, 0, 0, 1, 2, draw.randrange(8)]) for _ in LAYERS[name].takes)
        nodes.append(Node(layer=name, reads=reads, seed=draw.randrange(2**31)))
    output = draw.choice(_OUTPUTS)
    program = Program(
        seed=seed,
        sizes=sizes,
        nodes=tuple(nodes),
        inputs=inputs,
        grad_inputs=draw.random() < 0.2,
        by_keyword=draw.random() < 0.3,
        dtype=draw.choices(["float32", "float64", "bfloat16"], [7, 1.5, 1.5])[0],
        autocast=draw.random() < 0.1,
        channels_last=draw.random() < 0.3,
        frozen=draw.random() < 0.2,
        output=output,
        names_loss=draw.random() < 0.7,
        optimizer=draw.choice(["adamw", "adamw", "sgd"]),
        num_steps=draw.choice([2, 3]),
        share=draw.choice([0.0, 0.0, 0.2, 0.4, 0.6, 0.8, 0.95]),
        verify=draw.random() < 0.5,
        sampled=draw.random() < 0.7,
        other_length=draw.random() < 0.1,
    )
    # Drawn last, so that a seed's module stays what it was.
    container = draw.choices(["", *_CONTAINERS], [6, 1, 1, 1])[0]
    program = dataclasses.replace(program, container=container)
    if draw.random() < 0.5:
        return program
    return dataclasses.replace(
        program,
        order=draw.choice(_ORDERS),
        num_calls=draw.choice([1, 1, 1, 2, 3]),
        is_joined=draw.random() < 0.6,
        eval_mode=draw.random() < 0.2,
        waits=draw.random() < 0.25,
        num_steps=4,
    )


@dataclasses.dataclass
class Batch:
    """A batch in a class of the user's own; its size counts nothing that a layer reads."""

    tensors: dict[str, torch.Tensor]
    name: str = "batch"


class Plain:
    """A batch whose tensors are attributes, as in batches of graphs."""

    def __init__(self, tensors: dict[str, torch.Tensor]) -> None:
        self.__dict__.update(tensors)


_CONTAINERS: dict[str, Any] = {
    "dataclass": Batch,
    "object": Plain,
    "dicts in a list": lambda tensors: [{name: value} for name, value in tensors.items()],
}


def _unpacked(given: Any) -> dict[str, torch.Tensor]:
    """The tensors of a batch in any container."""
    if isinstance(given, Batch):
        return given.tensors
    if isinstance(given, Plain):
        return dict(vars(given))
    return {name: value for one in given for name, value in one.items()}


@dataclasses.dataclass
class Output:
    """A result as a class of the user's own."""

    loss: torch.Tensor
    hidden: torch.Tensor | None = None


class RandomModule(nn.Module):
    """The module of a program."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        sizes = program.sizes
        shared = Shared(
            linear=nn.Linear(sizes.width, sizes.width),
            embedding=nn.Embedding(sizes.vocabulary, sizes.width),
        )
        self.output = program.output
        self.container = program.container
        self.inputs = program.inputs
        self.layers = nn.ModuleList()
        self.reads: list[tuple[int, ...]] = []
        self.spare = nn.Linear(3, 3)
        kinds = list(program.inputs)
        for node in program.nodes:
            layer = LAYERS[node.layer]
            found = [[i for i, k in enumerate(kinds) if k == kind] for kind in layer.takes]
            if not all(found):
                continue
            self.reads.append(
                tuple(
                    candidates[-1 - number % len(candidates)]
                    for candidates, number in zip(found, node.reads, strict=True)
                )
            )
            draw = random.Random(node.seed)
            made = layer.make(sizes, draw, shared)
            if program.frozen and draw.random() < 0.5:
                made.requires_grad_(False)
            self.layers.append(made)
            kinds.append(layer.gives)
        read = {number for numbers in self.reads for number in numbers}
        self.ends = [
            i for i, kind in enumerate(kinds) if i not in read and (kind != "ids") and i >= 0
        ]
        # So that every program has something to train.
        self.head = nn.Linear(sizes.width, 5)

    def forward(
        self,
        seq: torch.Tensor | None = None,
        img: torch.Tensor | None = None,
        vec: torch.Tensor | None = None,
        ids: torch.Tensor | None = None,
        *,
        scale: float = 1.0,
        flag: bool = True,
    ) -> Any:
        given = {"seq": seq, "img": img, "vec": vec, "ids": ids}
        if self.container:
            given = _unpacked(seq)
        values = [given[name] for name in self.inputs]
        for layer, reads in zip(self.layers, self.reads, strict=True):
            values.append(layer(*[values[number] for number in reads]))
        ends = [values[number] for number in self.ends]
        ends = [end.movedim(1, -1) if end.dim() == 4 else end for end in ends]
        logits = [self.head(end).flatten(0, -2) for end in ends]
        if self.output == "values":
            return {"all": ends, "none": None, "logits": logits, "number": 3}
        if self.output == "value":
            return torch.cat(logits) if flag else None
        loss = logits[0].new_zeros(()) if not logits else _loss(logits) * scale
        if self.output == "loss":
            return loss
        if self.output == "tuple":
            return loss, None, tuple(logits)
        if self.output == "dict":
            return {"loss": loss, "aux": None, "hidden": ends}
        return Output(loss=loss, hidden=ends[-1])


def _loss(logits: list[torch.Tensor]) -> torch.Tensor:
    parts = []
    for number, logit in enumerate(logits):
        if number % 2:
            parts.append(logit.square().mean())
        else:
            target = torch.arange(logit.shape[0], device=logit.device) % logit.shape[1]
            parts.append(nn.functional.cross_entropy(logit, target))
    return torch.stack([part.float() for part in parts]).sum()


def loss_of(output: Any) -> torch.Tensor:
    """The loss of any kind of output, computed outside of the model where it has none."""
    if isinstance(output, Output):
        return output.loss
    if isinstance(output, torch.Tensor):
        return output if output.dim() == 0 else output.float().square().mean()
    if isinstance(output, tuple):
        return output[0]
    return output["loss"] if "loss" in output else _loss(output["logits"])


def build(program: Program) -> nn.Module:
    """The program's module in training mode, the same weights every time."""
    torch.manual_seed(program.seed)
    model = RandomModule(program).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.weight is not None:
            module.train(module.weight.requires_grad or module.training)
    model = model.to(getattr(torch, program.dtype))
    if program.eval_mode:
        model = model.eval()
    if program.channels_last and "img" in program.inputs:
        model = model.to(memory_format=torch.channels_last)
    return model


def batch(program: Program, number: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The inputs of a step."""
    generator = torch.Generator().manual_seed(program.seed * 100 + number)
    s = program.sizes
    length = s.length - 3 if program.other_length and number % 2 else s.length
    shapes = {
        "seq": (s.batch, length, s.width),
        "img": (s.batch, s.width, s.size, s.size),
        "vec": (s.batch, s.width),
    }
    made: dict[str, Any] = {}
    for kind in program.inputs:
        if kind == "ids":
            made[kind] = torch.randint(0, s.vocabulary, (s.batch, length), generator=generator)
            continue
        value = torch.randn(shapes[kind], generator=generator).to(getattr(torch, program.dtype))
        if kind == "img" and program.channels_last:
            value = value.contiguous(memory_format=torch.channels_last)
        made[kind] = value.requires_grad_(program.grad_inputs)
    if program.container:
        return (_CONTAINERS[program.container](made),), {}
    if program.by_keyword:
        return (), {**made, "scale": 0.5 + number, "flag": True}
    # Positional, as far as nothing is missing before it.
    args, names = [], ["seq", "img", "vec", "ids"]
    while names and names[0] in made:
        args.append(made.pop(names.pop(0)))
    return tuple(args), made
