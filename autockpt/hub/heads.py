"""Which class of transformers a configuration names, and what is built if it names none."""

from __future__ import annotations

from typing import Any

from autockpt.hub.config import HubError

# In the order in which they are tried for a model whose configuration names no head.
_USUAL = (
    *("CausalLM", "Seq2SeqLM", "MaskedLM", "SpeechSeq2Seq", "CTC", "ImageClassification"),
    *("SequenceClassification", "AudioClassification", "SemanticSegmentation"),
    *("VideoClassification", "ImageTextToText", "PreTraining"),
)
# Those that are built only if the configuration names them.
_OTHERS = (
    *("TokenClassification", "QuestionAnswering", "MultipleChoice", "NextSentencePrediction"),
    *("AudioXVector", "MultimodalLM", "ZeroShotImageClassification"),
)


def auto_class(transformers: Any, config: Any, architectures: Any) -> tuple[Any, tuple[str, ...]]:
    """Returns what builds the model of a configuration, and notes on what it builds.

    Args:
        transformers: The library.
        config: The configuration, parsed.
        architectures: What it names as the classes of the model.

    Raises:
        HubError: The model has no head whose loss is known.
    """
    named = [architectures] if isinstance(architectures, str) else list(architectures or ())
    usual = {}
    for head in (*_USUAL, *_OTHERS):
        auto = getattr(transformers, f"AutoModelFor{head}", None)
        names = () if auto is None else tuple(c.__name__ for c in _classes(auto, config))
        if any(name in named for name in names):
            return auto, ()
        if names and head in _USUAL:
            usual[names[0]] = auto
    if not usual:
        what = " or ".join(named) or type(config).__name__
        raise HubError(
            f"autockpt makes no batch with labels for {what}: write a function that returns the "
            "model and its inputs, and give file.py:function"
        )
    built, auto = next(iter(usual.items()))
    if not named:
        return auto, (f"The configuration names no architecture: this is {built}.",)
    why = "has no loss that autockpt knows"
    if not hasattr(transformers, named[0]):
        why = f"is not in transformers {transformers.__version__}"
    return auto, (f"The configuration names {named[0]}, which {why}: this is {built} instead.",)


def _classes(auto: Any, config: Any) -> tuple[Any, ...]:
    mapping = vars(auto)["_model_mapping"]
    if type(config) not in mapping:
        return ()
    found = mapping[type(config)]
    return tuple(found) if isinstance(found, (list, tuple)) else (found,)
