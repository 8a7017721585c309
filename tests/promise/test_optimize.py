"""The promise, on models of every kind: the same bits, within the budget, as predicted."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_models import MODELS, Tiny, build
from torch import nn
from training import (
    assert_same_gradients,
    assert_same_training,
    assert_within_budget,
    gradient_bytes,
    least_budget,
    peak_bytes,
    resting_bytes,
)

import autockpt

# Every kind of model in the middle; the loosest and the tightest share on one of each family.
CASES = [(name, 0.5, "auto") for name in MODELS]
CASES += [
    (name, share, "auto") for name in ("gpt2", "resnet", "control_flow") for share in (0.75, 0.25)
]
# The default method's search takes most of a test's time; elsewhere it is not what is shown.
QUICK = [
    ("gpt2", 0.5, "auto"),
    ("gpt2", 0.25, "greedy"),
    ("resnet", 0.5, "greedy"),
    ("sequential", 0.5, "greedy"),
    ("control_flow", 0.5, "greedy"),
]


def budget_at(share: float, tiny: Tiny) -> int:
    """Resting bytes and gradients, and a share of what eager holds beyond them."""
    model = tiny.model
    fixed_bytes = resting_bytes(model, tiny.args, tiny.kwargs) + gradient_bytes(model)
    beyond_bytes = peak_bytes(copy.deepcopy(model), tiny.args, tiny.kwargs) - fixed_bytes
    return fixed_bytes + int(share * beyond_bytes)


@pytest.mark.row(
    "models of model libraries", "GPT-2, BERT, Llama, T5, ViT, ResNet, ConvNeXt, U-Net"
)
@pytest.mark.parametrize(
    ("name", "share", "method"),
    [*QUICK, *(pytest.param(*c, marks=pytest.mark.full) for c in CASES if c not in QUICK)],
)
def test_bits_and_budget(name: str, share: float, method: str) -> None:
    tiny = build(name)
    eager = copy.deepcopy(tiny.model)
    budget = budget_at(share, tiny)
    options = {
        "sample_args": tiny.args, "sample_kwargs": tiny.kwargs, "optimizer": "adamw",
        "method": method, "verify": False,
    }  # fmt: skip
    try:
        optimized = autockpt.optimize(tiny.model, budget, **options)
    except autockpt.BudgetError as error:
        # Transients of one layer are most of so small a model: then the minimum is the budget.
        budget = max(budget + 1, error.minimum_peak_bytes)
        optimized = autockpt.optimize(tiny.model, budget, **options)
    assert optimized is tiny.model
    plan = autockpt.get_plan(tiny.model)
    assert plan is not None
    assert plan.recompute_ns > 0
    assert plan.predicted_peak_bytes <= budget
    assert_same_training(eager, tiny.model, tiny.args, tiny.kwargs)
    assert_within_budget(tiny.model, tiny.args, tiny.kwargs)


def test_at_the_eager_peak_nothing_is_recomputed_and_the_module_runs_as_it_was() -> None:
    tiny = build("control_flow")
    budget = peak_bytes(tiny.model, tiny.args, tiny.kwargs)
    autockpt.optimize(tiny.model, budget, sample_args=tiny.args, sample_kwargs=tiny.kwargs)
    plan = autockpt.get_plan(tiny.model)
    assert plan is not None
    assert plan.recompute_ns == 0
    loss = tiny.model(*tiny.args, **tiny.kwargs)["loss"]
    names = set()
    stack = [loss.grad_fn]
    while stack:
        node = stack.pop()
        names.add(node.name())
        stack.extend(parent for parent, _ in node.next_functions if parent is not None)
    assert "CompiledFunctionBackward" not in names
    assert "AddmmBackward0" in names


class _Spectral(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(32, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.mix(x)
        x = torch.fft.irfft(torch.fft.rfft(x, dim=1), x.shape[1], dim=1)
        return (x * x).sum()


def test_an_unverified_model_runs_as_it_is_only_if_that_was_measured_to_fit() -> None:
    """Backwards of Fourier transforms hold more in eager than in a graph: 28% over the budget."""
    model, x = _Spectral(), torch.randn(8, 64, 32)
    eager = copy.deepcopy(model)
    budget = autockpt.plan(model, "100GB", sample_args=(x,)).baseline_peak_bytes
    assert peak_bytes(eager, (x,), {}) > budget
    autockpt.optimize(model, budget, sample_args=(x,), verify=False)
    assert_same_training(eager, model, (x,), {})
    assert_within_budget(model, (x,), {})


class _Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.read, self.head = nn.LSTM(16, 64, batch_first=True), nn.Linear(64, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.read(x)[0]).square().mean()


def test_what_graphs_leave_out_counts_in_eagers_peak() -> None:
    """Dynamo leaves nn.LSTM out: eager's peak was told as a sixth of what it is, and a share of it
    as a budget that nothing could meet."""
    model, x = _Recurrent(), torch.randn(8, 64, 16)
    measured_bytes = peak_bytes(copy.deepcopy(model), (x,), {})
    plan = autockpt.plan(model, "100GB", sample_args=(x,), method="greedy")
    assert measured_bytes <= plan.baseline_peak_bytes <= 1.05 * measured_bytes


def test_without_samples_the_first_training_call_plans() -> None:
    tiny = build("gpt2")
    eager = copy.deepcopy(tiny.model)
    autockpt.optimize(tiny.model, "80%", method="greedy")
    assert autockpt.get_plan(tiny.model) is None
    assert_same_training(eager, tiny.model, tiny.args, tiny.kwargs)
    plan = autockpt.get_plan(tiny.model)
    assert plan is not None
    assert plan.measured_peak_bytes is not None
    assert plan.measured_peak_bytes <= plan.budget_bytes


@pytest.mark.row("loss outside of the model, several losses", "classifier")
def test_a_loss_outside_of_the_model_is_part_of_the_plan() -> None:
    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(
                *[nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Dropout(0.1)) for _ in range(6)]
            )
            self.head = nn.Linear(64, 500)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.layers(x))

    torch.manual_seed(0)
    model, x, target = Classifier(), torch.randn(256, 64), torch.randint(0, 500, (256,))

    def loss_fn(output: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(output, target)

    eager = copy.deepcopy(model)
    autockpt.optimize(
        model, "85%", method="greedy", sample_args=(x,), loss_fn=loss_fn, optimizer="adamw"
    )
    plan = autockpt.get_plan(model)
    assert plan is not None
    # Logits, their log-softmax and their gradient stand at the turn: the plan must know.
    logits_bytes = 256 * 500 * 4
    assert plan.predicted_peak_bytes - plan.fixed.total_bytes > 3 * logits_bytes
    assert plan.measured_peak_bytes is not None
    assert abs(plan.measured_peak_bytes - plan.predicted_peak_bytes) <= 512 * 1024
    assert_same_training(eager, model, (x,), loss_fn=loss_fn)


@pytest.mark.row("state_dict keys unchanged", "GPT-2")
def test_the_object_stays_what_it_was() -> None:
    """The plan expects the loss alone; whoever uses the logits too gets their gradients as well."""
    tiny = build("gpt2")
    model, eager = tiny.model, copy.deepcopy(tiny.model)
    keys, kind = list(model.state_dict()), type(model)
    parameters = [id(p) for p in model.parameters()]
    seen = []
    model.register_forward_hook(lambda *_: seen.append("forward"))
    assert autockpt.optimize(model, "80%", method="greedy", sample_kwargs=tiny.kwargs) is model
    assert type(model) is kind
    assert list(model.state_dict()) == keys
    assert [id(p) for p in model.parameters()] == parameters
    assert all(p.grad is None for p in model.parameters())
    seen.clear()
    for trained in (eager, model):
        torch.manual_seed(3)
        output = trained(**tiny.kwargs)
        (output.loss + output.logits.square().mean()).backward()
    assert seen == ["forward"]
    assert_same_gradients(eager, model)


@pytest.mark.row("eval, no_grad, inference_mode, and training again", "BERT")
def test_eval_and_no_grad_run_the_original_forward() -> None:
    tiny = build("bert")
    expected_eval = copy.deepcopy(tiny.model).eval()(**tiny.kwargs).loss
    autockpt.optimize(tiny.model, "80%", method="greedy", sample_kwargs=tiny.kwargs)
    tiny.model.eval()
    assert torch.equal(tiny.model(**tiny.kwargs).loss, expected_eval)
    tiny.model.train()
    with torch.no_grad():
        assert not tiny.model(**tiny.kwargs).loss.requires_grad


def test_restore_takes_the_rewrite_back() -> None:
    tiny = build("sequential")
    before = dict(tiny.model.__dict__)
    autockpt.optimize(tiny.model, "80%", method="greedy", sample_args=tiny.args)
    assert autockpt.get_plan(tiny.model) is not None
    assert autockpt.restore(tiny.model) is tiny.model
    assert autockpt.get_plan(tiny.model) is None
    assert tiny.model.__dict__.keys() == before.keys()
    autockpt.restore(tiny.model)


@pytest.mark.row("a model optimized twice", "CNN")
def test_optimizing_again_replaces_the_plan() -> None:
    tiny = build("sequential")
    original = tiny.model.forward
    autockpt.optimize(tiny.model, "90%", method="greedy", sample_args=tiny.args)
    first = autockpt.get_plan(tiny.model)
    autockpt.optimize(tiny.model, "80%", method="greedy", sample_args=tiny.args)
    second = autockpt.get_plan(tiny.model)
    assert first is not None
    assert second is not None
    assert second.budget_bytes < first.budget_bytes
    autockpt.restore(tiny.model)
    assert tiny.model.forward == original


@pytest.mark.full
def test_a_second_layout_of_inputs_gets_its_own_plan() -> None:
    tiny = build("gpt2")
    eager = copy.deepcopy(tiny.model)
    autockpt.optimize(tiny.model, "80%", method="greedy", sample_kwargs=tiny.kwargs)
    short = {name: value[:, :16] for name, value in tiny.kwargs.items()}
    for kwargs in (short, tiny.kwargs):
        assert_same_training(eager, tiny.model, (), kwargs)


@pytest.mark.row("two optimized models with different budgets", "GPT-2")
@pytest.mark.full
def test_two_models_of_one_class_keep_their_own_budgets() -> None:
    tiny = build("gpt2")
    first, second = copy.deepcopy(tiny.model), copy.deepcopy(tiny.model)
    autockpt.optimize(first, "90%", method="greedy", sample_kwargs=tiny.kwargs)
    autockpt.optimize(second, "75%", method="greedy", sample_kwargs=tiny.kwargs)
    peaks = [peak_bytes(m, (), tiny.kwargs) for m in (first, second)]
    assert peaks[1] < peaks[0]


def test_planning_needs_no_memory_for_the_model() -> None:
    with torch.device("meta"):
        model = nn.Sequential(*[nn.Linear(4096, 4096) for _ in range(40)], nn.Linear(4096, 1))
        x = torch.empty(2**20, 4096)
    plan = autockpt.plan(model, "60%", sample_args=(x,), method="greedy")
    assert plan.fixed.parameters_bytes > 2.5e9
    assert plan.cost_source == "roofline"
    assert plan.baseline_peak_bytes > 600e9
    assert plan.predicted_peak_bytes <= plan.budget_bytes
    assert all(p.device.type == "meta" for p in model.parameters())


def test_accumulated_gradients_are_counted_and_equal() -> None:
    tiny = build("gpt2")
    eager = copy.deepcopy(tiny.model)
    autockpt.optimize(
        tiny.model, "90%", method="greedy", sample_kwargs=tiny.kwargs, optimizer="adamw"
    )
    alone = autockpt.get_plan(tiny.model)
    for model in (eager, tiny.model):
        torch.manual_seed(3)
        for _ in range(3):
            model(**tiny.kwargs).loss.backward()
    assert_same_gradients(eager, tiny.model)
    beside = autockpt.get_plan(tiny.model)
    assert alone is not None
    assert beside is not None
    # Older gradients stand beside the step, and its own are let go as they are added to them.
    assert beside.baseline_peak_bytes > alone.baseline_peak_bytes
    assert beside.baseline_peak_bytes < alone.baseline_peak_bytes + alone.gradients_bytes


def test_gradients_that_do_not_fit_beside_the_step_are_said() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*[nn.Linear(32, 32), nn.Tanh()] * 3, nn.Linear(32, 1))
    x = torch.randn(64, 32)
    options = {"sample_args": (x,), "loss_fn": torch.sum, "method": "greedy"}
    budget = least_budget(model, **options) + gradient_bytes(model) // 2
    autockpt.optimize(model, budget, **options)
    model(x).sum().backward()
    with pytest.warns(UserWarning, match="gradients of an earlier backward"):
        model(x).sum().backward()
