from __future__ import annotations

import pickle
import platform

import pytest
import torch

from autockpt.errors import (
    AutockptError,
    BudgetError,
    CaptureError,
    DoubleBackwardError,
    InternalError,
    NotTrainableError,
    VerificationError,
    internal_errors,
)

_MIB = 2**20


def _budget_error() -> BudgetError:
    return BudgetError(
        budget_bytes=2048 * _MIB,
        minimum_peak_bytes=2468 * _MIB,
        peak_node="the backward of layers.3.mlp",
        composition={"parameters": 1024 * _MIB, "buffers": 0, "gradients": 512 * _MIB},
    )


def test_a_budget_error_says_the_least_where_it_is_and_what_to_do() -> None:
    assert str(_budget_error()) == (
        "budget 2.00 GiB is too small: the smallest workable budget that autockpt found is "
        "2.41 GiB (peak at the backward of layers.3.mlp; made of 1.00 GiB parameters and "
        "512.00 MiB gradients). "
        'Raise budget to "2.42GiB" or use a smaller batch.'
    )


def test_a_budget_error_carries_its_numbers() -> None:
    error = _budget_error()
    assert error.budget_bytes == 2048 * _MIB
    assert error.minimum_peak_bytes == 2468 * _MIB
    assert error.peak_node == "the backward of layers.3.mlp"
    assert error.composition["gradients"] == 512 * _MIB
    with pytest.raises(TypeError):
        error.composition["gradients"] = 0  # type: ignore[index]


def test_a_budget_error_without_detail_is_still_a_sentence() -> None:
    error = BudgetError(budget_bytes=100, minimum_peak_bytes=200)
    assert str(error).startswith(
        "budget 100 B is too small: the smallest workable budget that autockpt found is 200 B. "
    )


def test_a_capture_error_says_where_and_why() -> None:
    error = CaptureError(where="Net.forward (net.py:7)", reason="it calls C.", advice="Wrap it.")
    assert str(error) == (
        "cannot capture Net.forward (net.py:7): it calls C. The model is unchanged. Wrap it."
    )
    assert (error.where, error.reason) == ("Net.forward (net.py:7)", "it calls C.")


def test_verification_names_a_few_of_what_differs() -> None:
    names = ("a.weight", "b.weight", "c.weight", "d.weight", "e.weight")
    error = VerificationError("gradients differ from eager's", differing=names)
    assert "gradients differ from eager's (a.weight, b.weight, c.weight and 2 more)" in str(error)
    assert error.differing == names


def test_not_trainable_and_double_backward_say_what_to_do() -> None:
    assert "requires grad" in str(NotTrainableError("no parameter requires grad."))
    assert "autockpt.restore(model)" in str(DoubleBackwardError())


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (_budget_error(), ValueError),
        (CaptureError(where="x", reason="y"), RuntimeError),
        (NotTrainableError("x"), ValueError),
        (VerificationError("x", differing=("y",)), RuntimeError),
        (DoubleBackwardError(), RuntimeError),
        (InternalError(stage="capture", cause=KeyError("x")), RuntimeError),
    ],
)
def test_errors_fit_the_builtin_kinds_and_cross_processes(
    error: AutockptError, builtin: type[Exception]
) -> None:
    assert isinstance(error, AutockptError)
    assert isinstance(error, builtin)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert copy.__dict__ == error.__dict__


def test_an_internal_error_names_the_stage_the_cause_and_the_versions() -> None:
    with pytest.raises(InternalError) as caught, internal_errors("capture"):
        raise AttributeError("torch has no such name.")
    message = str(caught.value)
    assert message.startswith(
        "a bug in autockpt: the capture stage failed with AttributeError: torch has no such name. "
        "The model is unchanged. Please report it with the model and the whole traceback (autockpt "
    )
    assert f", torch {torch.__version__}, Python {platform.python_version()})." in message
    assert isinstance(caught.value.__cause__, AttributeError)
    assert caught.value.stage == "capture"


@pytest.mark.parametrize(
    "error",
    [
        _budget_error(),
        CaptureError(where="x", reason="y"),
        MemoryError("x"),
        torch.OutOfMemoryError("x"),
        UserWarning("x"),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_is_no_bug_passes_unchanged(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, internal_errors("capture"):
        raise error
    assert caught.value is error
