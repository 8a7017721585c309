"""Signals while `optimize` plans: they do what they always do, and the model stays as it was.

Signals are real, and each case is a process of its own. Some arrive when a stage begins, and others
in the middle of it, from another thread.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile

import forked
import pytest
from terminals import environment

_PROGRAM = """
import os, random, signal, sys, threading, time
import torch
from torch import nn
import autockpt
from autockpt.progress import current

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(*(
            nn.Sequential(
                nn.Linear(16, 32), nn.BatchNorm1d(32), nn.GELU(), nn.Dropout(0.2), nn.Linear(32, 16)
            )
            for _ in range(3)
        ))
        self.num_calls = 0

    def forward(self, x):
        self.num_calls += 1
        return self.layers(x).square().mean()

torch.manual_seed(0)
net, x = Net(), torch.randn(64, 16)
net.layers[1][3].eval()
net.layers[2][0].weight.requires_grad_(False)
net.layers[0].register_forward_hook(lambda module, inputs, output: None)
net(x).backward()

def optimize(method="auto"):
    "The default runs CP-SAT, which has handlers of its own."
    autockpt.optimize(
        net, "85%", sample_args=(x,), optimizer="sgd", time_limit_s=2, method=method
    )

def state():
    modules, parameters = list(net.modules()), list(net.parameters())
    values = [*parameters, *(p.grad for p in parameters), *net.buffers()]
    return {
        "values": [None if value is None else value.tolist() for value in values],
        "objects": [id(value) for value in values],
        "trained": [p.requires_grad for p in parameters],
        "training": [module.training for module in modules],
        "attributes": [sorted(vars(module)) for module in modules],
        "hooks": [
            {name: list(hooks) for name, hooks in vars(module).items() if "hooks" in name}
            for module in modules
        ],
        "on parameters": [
            (len(p._backward_hooks or ()), len(p._post_accumulate_grad_hooks or ()))
            for p in parameters
        ],
        "calls": net.num_calls,
        "random": (torch.get_rng_state().tolist(), random.getstate()),
        "handlers": (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)),
        "modes": (torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")),
        "hook": sys.unraisablehook,
        "threads": [t.name for t in threading.enumerate() if t.name.startswith("autockpt")],
    }

def at(wanted, act):
    "Act once when this stage begins."
    def begin(planning, stage):
        begun(planning, stage)
        if stage.name.startswith(wanted) and not seen:
            seen.append(stage.name)
            act()
    seen = []
    current.Planning.begin = begin
    return seen

begun = current.Planning.begin
STAGES = ("measuring", "capturing", "profiling the time", "solving", "comparing", "trying")
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A cache that the programs of this module share, so that operators are measured once."""
    return str(tmp_path_factory.mktemp("measured"))


def _run(
    program: str, *args: str, cache: str = "", is_fresh: bool = False
) -> subprocess.CompletedProcess[str]:
    # In a cache of its own nothing is measured yet.
    with tempfile.TemporaryDirectory() as folder:
        env = environment(AUTOCKPT_RAISE="1", AUTOCKPT_CACHE_DIR=cache or folder)
        if not is_fresh:
            return forked.run(_PROGRAM + program, *args, env=env)
        command = [sys.executable, "-c", _PROGRAM + program, *args]
        return subprocess.run(
            command, capture_output=True, text=True, env=env, timeout=600, check=False
        )


def test_an_interrupt_leaves_the_model_as_it_was_at_every_stage() -> None:
    done = _run("""
def signalled():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(1e9)

for stage in STAGES:
    before = state()
    seen = at(stage, signalled)
    try:
        optimize("greedy")
    except KeyboardInterrupt:
        after = state()
        changed = [name for name in before if before[name] != after[name]]
        print(stage, changed, len(seen))
    else:
        print(stage, "was not interrupted")
    if stage == "profiling the time":
        current.Planning.begin = begun
        optimize("greedy")  # so that what is profiled is known, and the rest is quick
        autockpt.restore(net)
        net.zero_grad()
        net(x).backward()
current.Planning.begin = begun
optimize()
print(type(autockpt.get_plan(net)).__name__)
""")
    stages = ("measuring", "capturing", "profiling the time", "solving", "comparing", "trying")
    assert done.stdout.splitlines() == [*(f"{stage} [] 1" for stage in stages), "Plan"], done.stderr


def test_one_in_the_middle_of_a_stage_leaves_it_too() -> None:
    """torch drops a few exceptions while it traces, so a second signal follows if one is lost."""
    done = _run(
        """
def signalled(after_s):
    while not is_over.wait(after_s):
        os.kill(os.getpid(), signal.SIGINT)
        after_s = 1.0

optimize("greedy")
autockpt.restore(net)
moments = (("capturing", 0.1), ("capturing", 0.5), ("comparing", 0.05), ("trying", 0.1))
for stage, after_s in moments:
    is_interrupted = False
    while not is_interrupted:
        before, is_over = state(), threading.Event()
        thread = threading.Thread(target=signalled, args=(after_s,))
        at(stage, thread.start)
        try:
            try:
                optimize("greedy")
            finally:
                is_over.set()
        except KeyboardInterrupt:
            is_interrupted = True
            thread.join()
            after = state()
            print([name for name in before if before[name] != after[name]])
        else:  # it was over before
            thread.join()
            autockpt.restore(net)
            after_s /= 2
""",
        is_fresh=True,
    )
    assert done.stdout.splitlines() == ["[]"] * 4, done.stderr


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_your_own_handler_runs_and_stays(name: str, measured: str) -> None:
    done = _run(
        """
number = getattr(signal, sys.argv[1])
class Mine(BaseException): pass  # as SystemExit and KeyboardInterrupt are
came = []
def notes(*_): came.append("noted")
def raises(*_): raise Mine
signal.signal(number, notes)
at("capturing", lambda: os.kill(os.getpid(), number))
optimize()
print(came, type(autockpt.get_plan(net)).__name__, signal.getsignal(number) is notes)
autockpt.restore(net)
net.zero_grad()
net(x).backward()
signal.signal(number, raises)
for stage in ("capturing", "solving", "trying"):
    before = state()
    def signalled():
        os.kill(os.getpid(), number)
        time.sleep(1e9)
    at(stage, signalled)
    try:
        optimize("greedy")
    except Mine:
        after = state()
        print([name for name in before if before[name] != after[name]])
os.kill(os.getpid(), number) if number == signal.SIGTERM else signal.raise_signal(number)
""",
        name,
        cache=measured,
    )
    assert done.stdout.splitlines() == ["['noted'] Plan True", "[]", "[]", "[]"], done.stderr
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("Mine")


def test_what_your_handler_raises_is_no_bug() -> None:
    """A TimeoutError for SIGALRM was reported as a bug in autockpt, and led to a lower rung."""
    done = _run("""
def ends(*_):
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # as many do
    raise TimeoutError("mine")

for stage in ("profiling the time", "building", "solving", "ordering"):
    before = state()
    signal.signal(signal.SIGALRM, ends)
    seen = at(stage, lambda: signal.raise_signal(signal.SIGALRM))
    try:
        optimize("greedy")
    except TimeoutError as error:
        after = state()
        print(stage, error, [name for name in before if before[name] != after[name]])
    except Exception as error:
        print(stage, type(error).__name__)
    else:
        print(stage, "was not interrupted", seen)
""")
    stages = ("profiling the time", "building", "solving", "ordering")
    assert done.stdout.splitlines() == [f"{stage} mine []" for stage in stages], done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_default_ends_the_process_at_once(number: signal.Signals, measured: str) -> None:
    done = _run(
        f"""
at("solving", lambda: (print("solving", flush=True), os.kill(os.getpid(), {int(number)})))
optimize()
print("went on")
""",
        cache=measured,
    )
    assert done.stdout == "solving\n"
    # Python turns an uncaught KeyboardInterrupt into the signal again.
    assert done.returncode == -number
    assert ("KeyboardInterrupt" in done.stderr) == (number == signal.SIGINT)
