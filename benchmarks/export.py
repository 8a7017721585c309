"""Graphs of models as text: the zoo's, and transformers of any depth on the meta device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autockpt_solvers import graph_to_json

if TYPE_CHECKING:
    from torch import nn

ZOO = (
    "gpt2",
    "bert-base",
    "llama",
    "t5",
    "vit",
    "resnet50",
    "convnext",
    "unet",
    "whisper",
    "mamba",
)


def graph_text(name: str) -> str:
    """The graph of a model of the zoo, or of `gpt2-N` or `llama-N` with N layers.

    Args:
        name: The model.

    Returns:
        The graph in the engine's JSON form.
    """
    import autockpt
    from autockpt import zoo

    kind, _, layers = name.rpartition("-")
    if layers.isdigit():
        model, batch = _transformer(kind, int(layers))
        plan = autockpt.plan(model, "100%", sample_kwargs=batch, method="none")
    else:
        example = zoo.build(name, "small", device="cpu")
        plan = autockpt.plan(
            example.model,
            "100%",
            sample_args=example.args,
            sample_kwargs=dict(example.kwargs),
            loss_fn=example.loss_fn,
            method="none",
        )
    assert plan.graph is not None
    return graph_to_json(plan.graph)


def _transformer(kind: str, num_layers: int) -> tuple[nn.Module, dict[str, object]]:
    """A model on the meta device, and its batch."""
    import torch
    import transformers

    with torch.device("meta"):
        if kind == "gpt2":
            model = transformers.GPT2LMHeadModel(
                transformers.GPT2Config(n_layer=num_layers, use_cache=False)
            )
            tokens = torch.zeros(4, 512, dtype=torch.long)
        elif kind == "llama":
            config = transformers.LlamaConfig(
                hidden_size=4096,
                intermediate_size=11008,
                num_hidden_layers=num_layers,
                num_attention_heads=32,
                vocab_size=32000,
                use_cache=False,
            )
            model = transformers.LlamaForCausalLM(config)
            tokens = torch.zeros(8, 2048, dtype=torch.long)
        else:
            raise ValueError(f"unknown model {kind!r}; use gpt2 or llama")
    return model.train(), {"input_ids": tokens, "labels": tokens}
