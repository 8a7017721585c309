"""Where the gradients go that the backward of a captured graph returns."""

from __future__ import annotations

from autockpt.capture.captured import Capture


def keys_of_input(capture: Capture, region: int, number: int) -> tuple[int, ...]:
    """The storages of the input that a gradient is for; of none but this one if not known."""
    graph = capture.graphs[region]
    is_known = len(graph.grad_keys) == len(graph.input_keys)
    return graph.input_keys[number] if is_known else (-1 - number,)


def makers_of_inputs(capture: Capture, region: int) -> list[int | None]:
    """The earlier graph that makes each input of a graph, by the gradient's number."""
    graph = capture.graphs[region]
    if len(graph.grad_keys) != len(graph.input_keys):
        return [None] * len(graph.grad_keys)
    makers: dict[int, int] = {}
    for number, earlier in enumerate(capture.graphs[:region]):
        # A graph may return a view of an input: it does not make that.
        taken = {key for keys in earlier.input_keys for key in keys}
        made = {key for keys in earlier.output_keys for key in keys} - taken
        if earlier.has_backward:
            makers.update(dict.fromkeys(made, number))
    return [next((makers[key] for key in keys if key in makers), None) for keys in graph.input_keys]
