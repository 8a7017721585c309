"""Blocks: the largest submodules that Dynamo can capture if it cannot capture what calls them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from autockpt.errors import AutockptError, InternalError
from autockpt.torch_private.dynamo import compile_forward
from autockpt.torch_private.refusals import is_compilation_error, wrapped
from autockpt.verify.replaced import replaced_forwards


class FailedBlocks(AutockptError):  # noqa: N818 - the ladder catches it to try finer blocks
    """Blocks that are not one graph."""

    def __init__(self, paths: set[str]) -> None:
        self.paths = paths
        super().__init__(f"not captured as one graph: {', '.join(sorted(paths))}")


def outermost_blocks(module: torch.nn.Module) -> tuple[str, ...]:
    """Names of the largest parts of a module that have a forward of their own and parts again."""
    found: dict[int, str] = {}
    for path, child in module.named_children():
        if _has_forward(child):
            if any(True for _ in child.children()):
                found.setdefault(id(child), path)
        else:
            for inner in outermost_blocks(child):
                found.setdefault(id(child.get_submodule(inner)), f"{path}.{inner}")
    return tuple(found.values())


def finer_blocks(
    module: torch.nn.Module, blocks: Iterable[str], failed: set[str]
) -> tuple[str, ...]:
    """The blocks, with the parts of those that failed in their place."""
    finer: list[str] = []
    for path in blocks:
        if path in failed:
            finer += [f"{path}.{p}" for p in outermost_blocks(module.get_submodule(path))]
        else:
            finer.append(path)
    return tuple(finer)


def compile_blocks(
    module: torch.nn.Module,
    paths: Iterable[str],
    backend: Callable[..., Any],
    *,
    failed: set[str] | None = None,
) -> dict[str, Callable[..., Any]]:
    """Compile each block by itself: no graph serves another block that looks the same.

    Args:
        module: What the blocks are parts of.
        paths: Their names.
        backend: What compiles their graphs.
        failed: If given, each block must be one graph. A block that is not runs as it is, and its
            name is added here.
    """

    def compiled(path: str) -> Callable[..., Any]:
        original = module.get_submodule(path).forward
        # Dynamo has one cache for each backend.
        alone = functools.partial(backend)
        if failed is None:
            return compile_forward(original, alone)
        whole = compile_forward(original, alone, fullgraph=True)

        def call(*args: Any, **kwargs: Any) -> Any:
            if path not in failed:
                try:
                    return whole(*args, **kwargs)
                except Exception as error:
                    if not is_compilation_error(error) or wrapped(error, InternalError):
                        raise
                    failed.add(path)
            return original(*args, **kwargs)

        return call

    return {path: compiled(path) for path in paths}


def run_in_blocks(
    module: torch.nn.Module,
    forward: Callable[..., Any],
    blocks: Mapping[str, Callable[..., Any]],
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Run a forward with compiled blocks instead of its own."""

    def replace(path: str, _: torch.nn.Module, original: Callable[..., Any]) -> Callable[..., Any]:
        return functools.wraps(original)(functools.partial(blocks[path]))

    with replaced_forwards({path: module.get_submodule(path) for path in blocks}, replace):
        return forward(*args, **kwargs)


def _has_forward(module: torch.nn.Module) -> bool:
    return type(module).forward is not torch.nn.Module.forward
