"""The line of source code that an operation comes from.

Dynamo notes the Python stack of each node of its graphs, and AOTAutograd hands it on to the nodes
of the backward. An operation belongs to the innermost frame that is neither torch's nor Python's.
"""

from __future__ import annotations

import functools
import linecache
import os
import re
import sys
import sysconfig
from pathlib import Path
from types import FrameType

import torch
import torch.fx as fx

_FRAME = re.compile(r'^ *File "(?P<path>.+)", line (?P<line>\d+)(?:, in .*)?$', re.MULTILINE)
_STACK = "stack_trace"
_MOST_CHARACTERS = 120  # of a line of code
_LIBRARY = sysconfig.get_paths()["stdlib"] + os.sep
_INSTALLED = (sysconfig.get_paths()["purelib"] + os.sep, sysconfig.get_paths()["platlib"] + os.sep)
_TORCH = str(Path(str(torch.__file__)).parent) + os.sep
_AUTOCKPT = Path(__file__).parents[1]
_OTHERS = (_TORCH, str(_AUTOCKPT) + os.sep)
_ZOO = str(_AUTOCKPT / "zoo") + os.sep  # its models are models

# A file as Python imports it, the number of a line, and what that says.
SourceLine = tuple[str, int, str]


def source_line(node: fx.Node) -> SourceLine | None:
    """The line of code that a node of a captured graph comes from, if that was noted."""
    stack = node.meta.get(_STACK)
    return _innermost(stack) if stack else None


def note_line(node: fx.Node, line: tuple[str, int] | None) -> None:
    """Note for a node the file and line that `running_line` has found."""
    if line is not None:
        node.meta[_STACK] = f'  File "{line[0]}", line {line[1]}'


def running_line() -> tuple[str, int] | None:
    """The file and the line of code that calls torch at the moment."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if _is_of_the_model(frame.f_code.co_filename):
            return frame.f_code.co_filename, frame.f_lineno
        frame = frame.f_back
    return None


@functools.lru_cache(maxsize=4096)
def _is_of_the_model(path: str) -> bool:
    if path.startswith(_ZOO):
        return True
    if path.startswith(_OTHERS) or (path.startswith("<") and not linecache.getlines(path)):
        return False
    return not path.startswith(_LIBRARY) or path.startswith(_INSTALLED)


@functools.lru_cache(maxsize=4096)
def _innermost(stack: str) -> SourceLine | None:
    frames = [(match["path"], int(match["line"])) for match in _FRAME.finditer(stack)]
    for path, line in reversed(frames):
        if line > 0 and _is_of_the_model(path):
            code = linecache.getline(path, line).strip()[:_MOST_CHARACTERS]
            return _as_imported(path), line, code
    return None


def _as_imported(path: str) -> str:
    """A file's path from the folder that Python finds it in, so that it names no machine."""
    file = Path(path)
    if file.parent.name.startswith("ipykernel_") or path.startswith("<ipython-input"):
        return "cell"  # of a notebook
    folders = [Path(folder).absolute() for folder in sys.path]
    parents = [folder for folder in folders if file.is_relative_to(folder)]
    if not parents:
        return file.name
    return file.relative_to(max(parents, key=lambda folder: len(folder.parts))).as_posix()
