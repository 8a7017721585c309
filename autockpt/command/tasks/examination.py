"""Examines what autockpt needs here: versions, devices, and whether a small model works."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import psutil
import torch
from rich.console import Group
from rich.table import Table
from rich.text import Text

import autockpt
from autockpt.budget import format_bytes
from autockpt.report.words.inert import inert

_NEEDED = ("torch", "ortools", "numba", "numpy", "networkx", "msgspec", "rich", "typer", "jinja2")
_EXTRAS = {
    "experiments": ("transformers", "diffusers", "peft"),
    "plot": ("matplotlib",),
    "others": ("accelerate", "pytorch_lightning", "pandas"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Something that was tried.

    Attributes:
        name: What it is.
        works: Whether it works; None for what is not here, which is no fault.
        detail: What was found, on one line.
    """

    name: str
    works: bool | None
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Examination:
    """What was found.

    Attributes:
        versions: Versions of what autockpt needs.
        extras: Versions of what is optional; None for what is not installed.
        machine: The processor, its threads, and memory.
        devices: Accelerators, by name and memory.
        checks: What was tried.
    """

    versions: dict[str, str]
    extras: dict[str, str | None]
    machine: str
    devices: tuple[str, ...]
    checks: tuple[Check, ...]

    @property
    def is_well(self) -> bool:
        """Whether nothing that was tried fails."""
        return all(check.works is not False for check in self.checks)

    def values(self) -> dict[str, Any]:
        """Returns all of it as plain values."""
        return asdict(self) | {"is_well": self.is_well}


def examine(stage: Callable[[str], None] = lambda _: None) -> Examination:
    """Finds out what is here, and tries what autockpt does; nothing raises.

    Args:
        stage: Is told what is tried, in words.
    """

    def tried(name: str, what: Callable[[], str]) -> Check:
        stage(f"{name} ...")
        return _tried(name, what)

    return Examination(
        versions={
            "autockpt": autockpt.__version__,
            "python": platform.python_version(),
            **{name: _version(name) or "missing" for name in _NEEDED},
        },
        extras={name: _version(name) for names in _EXTRAS.values() for name in names},
        machine=_machine(),
        devices=_devices(),
        checks=(
            tried("private names of torch", _private_names),
            tried("a small model, planned and trained", _small_model),
            tried("the solver's compiled kernels", _kernels),
            tried("writing to the cache", _cache),
            _accelerator(),
            _distributed(),
        ),
    )


def render(found: Examination, kept: Mapping[str, Any]) -> Group:
    """Returns an examination for a rich console.

    Args:
        found: The examination.
        kept: What is in the cache.
    """
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column()
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    grid.add_row("versions", Text(versions))
    grid.add_row("machine", Text(inert(found.machine)))
    grid.add_row("devices", Text(inert(", ".join(found.devices) or "no accelerator: the CPU")))
    installed = [f"{name} {version}" for name, version in found.extras.items() if version]
    missing = [name for name, version in found.extras.items() if not version]
    grid.add_row("extras", Text(", ".join(installed) or "none"))
    if missing:
        how = 'pip install "autockpt[experiments,plot]" for most'
        grid.add_row("not installed", Text(f"{', '.join(missing)} ({how})"))
    grid.add_row(
        "cache",
        Text(
            inert(
                f"{kept['folder']}: {kept['num_operators']} operators, {kept['num_plans']} plans "
                f"({format_bytes(kept['operators_bytes'] + kept['plans_bytes'])})"
                + ("" if kept["plans_are_kept"] else "; plans are not kept (AUTOCKPT_PLAN_CACHE)")
            )
        ),
    )
    checks = Table.grid(padding=(0, 2, 0, 0))
    marks = {True: ("ok", "green"), False: ("fails", "bold red"), None: ("-", "dim")}
    for check in found.checks:
        detail = Text(inert(check.detail), "dim")
        checks.add_row(Text(*marks[check.works]), Text(check.name), detail)
    word = ("all is well", "bold green") if found.is_well else ("something fails", "bold red")
    return Group(Text.assemble("autockpt doctor: ", word), Text(""), grid, Text(""), checks)


def _version(name: str) -> str | None:
    if importlib.util.find_spec(name) is None:
        return None
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "of an unknown version"


def _machine() -> str:
    memory = psutil.virtual_memory()
    return (
        f"{platform.machine()}, {platform.system()}, {torch.get_num_threads()} threads of "
        f"{os.cpu_count()} processors, {format_bytes(memory.available)} of "
        f"{format_bytes(memory.total)} memory free"
    )


def _devices() -> tuple[str, ...]:
    if not torch.cuda.is_available():
        return ()
    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found.append(f"cuda:{index} {properties.name}, {format_bytes(properties.total_memory)}")
    return tuple(found)


def _tried(name: str, what: Callable[[], str]) -> Check:
    began_s = time.perf_counter()
    try:
        detail = what()
    except Exception as error:  # noqa: BLE001 - whatever fails is what we want to know
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return Check(name=name, works=False, detail=reason)
    return Check(name=name, works=True, detail=f"{detail}{time.perf_counter() - began_s:.1f} s")


def _private_names() -> str:
    from autockpt.torch_private.needed import NEWEST, OLDEST, check_torch

    check_torch()
    return f"tested with torch {OLDEST} to {NEWEST}, "


def _small_model() -> str:
    from autockpt.dispatch.kept import none_kept

    with torch.random.fork_rng(devices=[]), none_kept():
        layers = [
            torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.GELU(), torch.nn.Dropout(0.1))
            for _ in range(4)
        ]
        model, inputs = torch.nn.Sequential(*layers), torch.ones(256, 32)
        autockpt.optimize(
            model,
            "75%",
            sample_args=(inputs,),
            loss_fn=torch.Tensor.sum,
            optimizer="sgd",
            time_limit_s=1.0,
            progress=False,
        )
        model(inputs).sum().backward()
    plan = autockpt.get_plan(model)
    assert plan is not None
    return f"rung {plan.rung}, +{plan.overhead:.1%} time, "


def _kernels() -> str:
    from autockpt_solvers import Problem, solve
    from autockpt_solvers.instances import read_instance

    sizes = (4, 1, 8)
    ops = [{"name": str(k), "duration": 3, "output_bytes": size} for k, size in enumerate(sizes)]
    text = json.dumps({"ops": ops, "edges": [[0, 1], [1, 2], [0, 2]]})
    graph = read_instance(text).graph
    result = solve(Problem(graph=graph, budget_bytes=10**6), method="auto", time_limit_s=1.0)
    return f"solved as {result.status.value}, "


def _cache() -> str:
    from autockpt.profile.cache import cache_folder
    from autockpt.report.files.plan_file import write_whole

    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f".autockpt-doctor-{os.getpid()}"
    write_whole(file, "x", what="write")
    file.unlink()
    return ""


def _accelerator() -> Check:
    name = "an accelerator"
    if not torch.cuda.is_available():
        built = "built without CUDA" if torch.version.cuda is None else "no driver or no device"
        return Check(name=name, works=None, detail=f"torch {torch.__version__}: {built}")

    def run() -> str:
        x = torch.ones(64, 64, device="cuda")
        torch.cuda.synchronize()
        return f"a product of {float((x @ x)[0, 0]):g}, "

    return _tried(name, run)


def _distributed() -> Check:
    is_here = torch.distributed.is_available() and torch.distributed.is_gloo_available()
    detail = "gloo" if is_here else "torch was built without it"
    return Check(name="data parallelism", works=True if is_here else None, detail=detail)
