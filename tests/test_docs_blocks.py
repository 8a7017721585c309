"""Every code block of README and docs runs, page by page, as a reader would type it.

The blocks of a page run one after the other, in one namespace and one folder:

- `python` runs. If a `text` block follows it at once, that is what it must print; `...` stands for
  anything. A block that begins with `# name.py` is written to that file first.
- `toml` with a name is written to that file. What begins with `[[models]]` must be an experiment.
- `console` runs every `$` line. Lines below it are what a program of yours prints, or an error of
  autockpt; other output of autockpt depends on the machine and is not compared.

`_GIVEN` has what the pages take for granted: your model, your loader, your files. `_NOT_RUN` has
what cannot run here, or takes long; all options of such a command of autockpt must still be valid.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import json
import re
import runpy
import shlex
import sys
import textwrap
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

import autockpt
from autockpt.command.cli import _app, main
from autockpt.experiments.spec import Experiment, Model, read_experiment
from autockpt_solvers import graph_to_json
from tests.small_plans import layers_graph, planned

_ROOT = Path(__file__).parents[1]
_DOCS = _ROOT / "docs"

pytestmark = pytest.mark.usefixtures("short_searches")

# The pages that go on with what the page before has made.
_CHAPTER = [
    _DOCS / f"{name}.md"
    for name in re.findall(r"^how/\w+$", (_DOCS / "how_it_works.md").read_text(), re.MULTILINE)
]

# Commands that do not run here. The reason stands beside what the line contains.
_NOT_RUN = {
    "pip install": "installs packages",
    "make ": "sets up environments and containers; tests/test_environment.py has their parts",
    "torchrun ": "two processes; tests/test_examples.py runs the program so",
    "autockpt demo": "trains a model of the zoo for a minute; tests/command runs it in small",
    "autockpt doctor": "takes 20 s; tests/command runs it",
    "autockpt bench": "many searches; tests/command runs an experiment",
    "zoo:gpt2": "plans a GPT-2 for a minute",
    "zoo:bert": "plans a BERT for minutes",
    "zoo:sequential --budget 60% --optimizer sgd": "trains twice for 20 s; see tests/command",
    "zoo:sequential --budget 60MB": "plans and runs steps for 20 s; tests/batch has smaller models",
    "hf:": "reads a configuration that a reader has; tests/fitting has such configurations",
    "--method full": "the graph that stands for GPT-2 here has nothing that it can save",
    "TARGET": "stands for a reader's model",
}

# The same for blocks of Python.
_NOT_RUN_IN_PYTHON = {'budget="auto"': "needs a GPU; examples/gpu_check.py tries it on one"}

# Pages whose blocks do not build on each other.
_SEPARATE = {"integrations", "start"}

# Files that pages take for granted, and how each is made.
_NETWORK = '''
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(0.1),
                                    nn.Linear(2 * width, width))

    def forward(self, x):
        return x + self.layers(x)

class MyModel(nn.Module):
    """A network that returns its loss."""
    def __init__(self, width=16, depth=2):
        super().__init__()
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))

    def forward(self, x, target=None):
        for block in self.blocks:
            x = block(x)
        return (x if target is None else x - target).square().mean()

    def loss(self, x, target):
        return self(x, target)

    def cuda(self):
        return self  # there is no GPU here

class Net(MyModel):
    def __init__(self, width=256, depth=4):
        super().__init__(width, depth)
'''
_TARGETS = """
import torch
from my_network import MyModel

def build():
    return MyModel(), (torch.randn(8, 16),)

def small():
    return build()
"""

# What a page takes for granted, in code.
_COMMON = """
import functools
import torch
from torch import nn
import autockpt
from my_network import Block, MyModel, Net

model = MyModel()
optimizer = torch.optim.AdamW(model.parameters())
x = batch = torch.randn(8, 16)
loader = torch.utils.data.DataLoader([(torch.randn(16), torch.randn(16))] * 16, batch_size=8)
"""
_TRANSFORMERS = """
import transformers

class TokenModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.model = nn.Embedding(4, 16), MyModel(depth=1)

    def forward(self, input_ids, labels=None):
        return {"loss": self.model(self.embedding(input_ids))}

monkeypatch.setattr(
    transformers.AutoModelForCausalLM, "from_pretrained", lambda name: TokenModel()
)
ids = torch.ones(8, dtype=torch.long)
dataset = [{"input_ids": ids, "labels": ids}] * 16
"""
_LIGHTNING = """
import pytorch_lightning

class MyLightningModule(pytorch_lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = MyModel()

    def training_step(self, batch, batch_index):
        return self.network(*batch)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters())
"""
_PLAN = """
optimizer = torch.optim.SGD(model.parameters())
autockpt.optimize(model, "80%", sample_args=(x,), optimizer=optimizer, method="greedy")
plan = autockpt.get_plan(model)
plan.save("plan.json")
"""
_SMALL_PLAN = "model, batch = MyModel(depth=2), torch.randn(1024, 16); x = batch" + _PLAN
_GIVEN = {
    "loops": "encoder, decoder = MyModel(), MyModel()",
    "start": _TRANSFORMERS
    + _LIGHTNING
    + """
classifier, labels = nn.Linear(16, 4), torch.ones(8, dtype=torch.long)
""",
    "integrations": _TRANSFORMERS,
    "distributed": """
import torch.distributed
torch.distributed.init_process_group(store=torch.distributed.HashStore(), rank=0, world_size=1,
                                     backend="gloo")
""",
    "curves": _SMALL_PLAN,
    "report": _SMALL_PLAN,
    "kept_plans": "model, x = Net(depth=2), torch.randn(16, 64, 256)" + _PLAN,
    "fit": "batch = {'x': batch}",
    "batches": _TRANSFORMERS
    + """
model = TokenModel()
optimizer = "sgd"
""",
    "callable": """
from autockpt_solvers import Problem
from tests.small_plans import layers_graph, planned
problem = Problem(graph=layers_graph(), budget_bytes=10**9)
""",
}


def _chain(num_layers: int) -> str:
    """A graph in the form of published instances: layers, and a backward that reads them."""
    forward, backward = range(num_layers), range(num_layers, 2 * num_layers)
    edges = [
        *itertools.pairwise((*forward, *backward)),
        *zip(forward, reversed(backward), strict=True),
    ]
    ops = [{"name": f"op {n}", "duration": 1, "output_bytes": 100} for n in (*forward, *backward)]
    return json.dumps({"ops": ops, "edges": sorted(set(edges))})


@dataclass(frozen=True)
class _Block:
    page: Path
    line: int
    language: str
    text: str
    printed: str | None

    @property
    def file_name(self) -> str | None:
        named = re.match(r"# ([\w-]+\.(?:py|toml))\n", self.text)
        return None if named is None else named[1]


def _blocks(page: Path) -> Iterator[_Block]:
    text = page.read_text(encoding="utf-8")
    found = list(re.finditer(r"^( *)```(\w+)\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE))
    for block, after in itertools.zip_longest(found, found[1:]):
        follows = after is not None and not text[block.end() : after.start()].strip()
        yield _Block(
            page,
            text.count("\n", 0, block.start()) + 1,
            block[2],
            textwrap.dedent(block[3]),
            after[3] if follows and after[2] == "text" else None,
        )


def _matches(printed: str, expected: str) -> bool:
    pattern = ".*?".join(re.escape(part.strip()) for part in expected.split("..."))
    return re.fullmatch(pattern, printed.strip(), re.DOTALL) is not None


class _Page:
    """The namespace and the folder in which the blocks of a page run."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._monkeypatch = monkeypatch
        self._names: dict[str, Any] = {"__name__": "page", "monkeypatch": monkeypatch}
        (folder / "my_network.py").write_text(_NETWORK)
        for name in ("my_model.py", "my_models.py"):
            (folder / name).write_text(_TARGETS)
        graph = graph_to_json(layers_graph())
        for name in ("gpt2.json", "small.json"):
            (folder / name).write_text(graph)
        for name, share in (("plan", 0.6), ("8GB", 0.7), ("6GB", 0.5)):
            planned(share, segment="transformer.h").save(folder / f"{name}.json")
        (folder / "train.py").write_text("import torch\n")
        (folder / "instance.json").write_text(_chain(6))

    def given(self, page: Path) -> None:
        exec(_COMMON + _GIVEN.get(page.stem, ""), self._names)  # noqa: S102

    def run(self, block: _Block) -> None:
        where = f"{block.page.relative_to(_ROOT)}:{block.line}"
        if block.file_name is not None:
            (self._folder / block.file_name).write_text(block.text)
        if block.language == "python":
            # Tracebacks then name the line of the page.
            code = compile("\n" * block.line + block.text, str(block.page), "exec")
            if any(part in block.text for part in _NOT_RUN_IN_PYTHON):
                return
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                if block.file_name is None:
                    exec(code, self._names)  # noqa: S102
                else:
                    runpy.run_path(block.file_name)
            if block.printed is not None:
                assert _matches(printed.getvalue(), block.printed), (where, printed.getvalue())
        elif block.language == "toml" and "[[models]]" in block.text:
            assert block.file_name is not None
            assert read_experiment(self._folder / block.file_name).models
        elif block.language == "console":
            for command, output in re.findall(r"^\$ (.+)\n((?:(?!\$ ).*\n)*)", block.text, re.M):
                self._command(command, output, where)

    def _command(self, command: str, output: str, where: str) -> None:
        words = shlex.split(command, comments=True)
        not_run = any(part in command for part in _NOT_RUN)
        if words[0] == "python":
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                runpy.run_path(words[1], run_name="__main__")
            assert _matches(printed.getvalue(), output), (where, printed.getvalue())
        elif not_run and words[0] == "autockpt":
            _check_options(words[1:])
        elif not not_run:
            assert words[0] == "autockpt", (where, command)
            self._monkeypatch.setattr(sys, "argv", words)
            streams = io.StringIO(), io.StringIO()
            with (
                contextlib.redirect_stdout(streams[0]),
                contextlib.redirect_stderr(streams[1]),
                pytest.raises(SystemExit) as ended,
            ):
                main()
            said = streams[1].getvalue()
            fails = output.startswith("error: ")
            assert ended.value.code == (2 if fails else 0), (where, command, said)
            if fails:
                assert _matches(said, output.replace("/home/you", "...")), (where, said)


def _check_options(words: list[str]) -> None:
    """Raises if a command or an option does not exist, or has a value of the wrong kind."""
    command = typer.main.get_command(_app)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words[0]]
        words = words[1:]
    command.make_context(command.name, words)


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[_Page]:
    monkeypatch.setenv("AUTOCKPT_CACHE_DIR", str(tmp_path / "cache"))
    # Searches that are not given a time limit end sooner.
    monkeypatch.setattr("autockpt.arguments._DEFAULT_LIMIT_S", 2.0)
    monkeypatch.setattr("autockpt.report.plan._CURVE_S", 0.5)
    monkeypatch.setattr("autockpt.report.curve.search.TIME_LIMIT_S", 0.5)
    monkeypatch.setattr("autockpt.curves.TIME_LIMIT_S", 0.5)
    for name in ("max_batch_size", "max_tokens_per_batch"):
        quick = functools.partial(getattr(autockpt, name), time_limit_s=1)
        monkeypatch.setattr(autockpt, name, quick)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield _Page(tmp_path, monkeypatch)
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def _run(page: _Page, paths: list[Path]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        page.given(paths[0])
        for block in itertools.chain.from_iterable(map(_blocks, paths)):
            if block.page.stem in _SEPARATE:
                page.given(block.page)
            page.run(block)


_OTHERS = [
    path
    for path in [_ROOT / "README.md", *sorted(_DOCS.rglob("*.md"))]
    if path not in _CHAPTER and any(b.language in ("python", "console") for b in _blocks(path))
]


@pytest.mark.parametrize("path", _OTHERS, ids=lambda path: path.stem)
def test_the_blocks_of_a_page_run(page: _Page, path: Path) -> None:
    _run(page, [path])


def test_the_chapter_on_the_stages_runs(page: _Page) -> None:
    assert len(_CHAPTER) >= 9
    _run(page, _CHAPTER)


def test_the_page_on_experiments_names_every_key() -> None:
    page = (_DOCS / "experiments.md").read_text()
    keys = {*Experiment.__struct_fields__, *Model.__struct_fields__}
    assert [key for key in sorted(keys) if f"`{key}`" not in page] == []


def test_what_is_not_run_is_on_some_page() -> None:
    text = "\n".join(page.read_text() for page in _OTHERS)
    assert [part for part in (*_NOT_RUN, *_NOT_RUN_IN_PYTHON) if part not in text] == []
