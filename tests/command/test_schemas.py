"""The documented schemas are those of the types, and real answers have these types."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from command_line import autockpt

from autockpt.command.schemas import ANSWERS, schema_texts
from tests.small_plans import planned

_DOCUMENTED = Path(__file__).parents[2] / "docs" / "schemas"


def test_the_documented_schemas_are_current() -> None:
    """`python docs/schemas.py` writes them."""
    written = {file.stem: file.read_text() for file in _DOCUMENTED.glob("*.json")}
    assert written == schema_texts()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("answers")
    for name, share in (("a", 0.5), ("b", 0.7)):
        planned(share).save(folder / f"{name}.json")
    (folder / "models_for_schemas.py").write_text(
        "import torch\n"
        "def make(batch=64):\n"
        "    layers = [torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.GELU())\n"
        "              for _ in range(3)]\n"
        "    return torch.nn.Sequential(*layers), torch.ones(batch, 16)\n"
    )
    (folder / "x.toml").write_text(
        'budgets = ["100%"]\nmethods = ["none"]\n[[models]]\nloss = "sum"\n'
        'target = "models_for_schemas.py:make"\n'
    )
    (folder / "train.py").write_text("import torch\n")
    (folder / "plain.json").write_text(
        '{"ops": [{"name": "a", "duration": 1, "output_bytes": 1}], "edges": []}'
    )
    return folder


_STEP = ("--loss", "sum", "--optimizer", "sgd")
_QUICK = ("--method", "greedy", "--time-limit", "1", "-q")


@pytest.mark.parametrize(
    ("kind", "args"),
    [
        ("plan", ["plan", "MODEL", "--budget", "90%", *_STEP, *_QUICK]),
        ("graph", ["graph", "MODEL", *_STEP, "-q"]),
        ("pareto", ["pareto", "MODEL", "--points", "3", *_STEP, *_QUICK]),
        ("fit", ["fit", "MODEL", "--device", "t4", *_STEP, "-q"]),
        (
            "max-batch",
            [
                "max-batch",
                "MODEL",
                "--budget",
                "60kB",
                "--at-most",
                "4",
                "--no-verify",
                *_STEP,
                *_QUICK,
            ],
        ),
        ("solve", ["solve", "FOLDER/plain.json", "--budget", "100%", *_QUICK]),
        ("verify", ["verify", "MODEL", "--budget", "150%", "--steps", "1", *_STEP, *_QUICK]),
        ("explain", ["explain", "FOLDER/a.json", "layer.2"]),
        ("apply", ["apply", "FOLDER/a.json"]),
        ("diff", ["diff", "FOLDER/a.json", "FOLDER/b.json"]),
        ("monitor", ["monitor", "-q", "--json", "-", "FOLDER/train.py"]),
        ("doctor", ["doctor"]),
        ("cache", ["cache", "info"]),
        ("bench", ["bench", "FOLDER/x.toml", "-q"]),
    ],
)
def test_real_answers_have_the_documented_types(folder: Path, kind: str, args: list[str]) -> None:
    model = f"{folder}/models_for_schemas.py:make"
    given = [arg.replace("MODEL", model).replace("FOLDER", str(folder)) for arg in args]
    output = [] if kind == "monitor" else ["--json", "-"]
    run = autockpt(*given, *output)
    assert run.returncode == 0, run.stderr
    # Nothing but the answer is on standard output.
    document = json.loads(run.stdout)
    answer = msgspec.convert(document, ANSWERS[kind], strict=True)
    known = msgspec.to_builtins(answer)
    assert set(document) <= set(known)
