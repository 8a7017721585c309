from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from autockpt import zoo

# As published; the U-Net is DDPM's at 256 pixels.
_NUM_PARAMETERS = {
    "gpt2": 124_439_808,
    "bert-base": 109_514_298,
    "bert-large": 335_174_458,
    "llama": 1_235_814_400,
    "t5": 222_903_552,
    "mamba": 129_135_360,
    "vit": 86_567_656,
    "resnet50": 25_557_032,
    "convnext": 28_589_128,
    "unet": 113_673_219,
    "whisper": 241_734_912,
}


@pytest.mark.parametrize("name", zoo.names())
def test_the_small_one_trains_a_step(name: str) -> None:
    example = zoo.build(name)
    assert all(module.training for module in example.model.modules())
    loss = example.loss()
    assert loss.dim() == 0
    loss.backward()
    grads = {n: p.grad for n, p in example.model.named_parameters() if p.requires_grad}
    without = {n for n, grad in grads.items() if grad is None}
    # The one module that skips its last block on purpose is allowed parameters without gradient.
    assert without == ({n for n in grads if "blocks.7." in n} if name == "control-flow" else set())
    assert all(torch.isfinite(grad).all() for grad in grads.values() if grad is not None)
    optimizer = torch.optim.SGD(example.model.parameters(), lr=0.1)
    optimizer.step()
    assert example.loss().item() != loss.item()


@pytest.mark.parametrize("name", zoo.names())
def test_the_full_one_is_the_published_one_and_needs_no_memory_on_meta(name: str) -> None:
    example = zoo.build(name, "full", device="meta")
    tensors = [*example.model.state_dict().values(), *example.args, *example.kwargs.values()]
    assert {t.device.type for t in tensors if isinstance(t, torch.Tensor)} == {"meta"}
    if name in _NUM_PARAMETERS:
        num = sum(p.numel() for p in example.model.parameters())
        assert num == _NUM_PARAMETERS[name]


def test_building_is_deterministic_and_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    first, second, other = (zoo.build("bert-large", seed=seed) for seed in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, second.model.state_dict()[name]), name
    assert torch.equal(first.kwargs["labels"], second.kwargs["labels"])
    assert not torch.equal(first.kwargs["labels"], other.kwargs["labels"])


def test_attention_is_named() -> None:
    for name in ("gpt2", "bert-base", "llama", "vit", "whisper"):
        assert zoo.build(name, device="meta").model.config._attn_implementation == "sdpa"


def test_unknown_names_and_sizes_list_the_known() -> None:
    with pytest.raises(ValueError, match=r"unknown model 'gpt7'; the zoo has gpt2, bert-base"):
        zoo.build("gpt7")
    with pytest.raises(ValueError, match=r"unknown size 'huge'; sizes are small, full"):
        zoo.build("gpt2", "huge")  # type: ignore[arg-type]


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    # None in sys.modules is how Python itself marks a module that cannot be imported.
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModuleNotFoundError, match=r"needs transformers.*autockpt\[experiments\]"):
        zoo.build("gpt2")
    zoo.build("sequential")


def test_importing_autockpt_imports_no_model_library() -> None:
    look = "print(bool({'transformers', 'diffusers'} & set(sys.modules)));"
    # The check can fail: it does once one is imported.
    code = f"import sys, autockpt, autockpt.zoo; {look} import transformers; {look}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


@pytest.mark.parametrize("name", zoo.names())
def test_the_batch_can_be_chosen(name: str) -> None:
    example = zoo.build(name, device="meta", batch=3)
    tensors = [t for t in (*example.args, *example.kwargs.values()) if isinstance(t, torch.Tensor)]
    assert {t.shape[0] for t in tensors} == {3}
    with pytest.raises(ValueError, match="batch is 0; it must be 1 or more"):
        zoo.build(name, device="meta", batch=0)
