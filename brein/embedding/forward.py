"""A model's forward pass as one graph, which runs without the interpreter."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

Tensors: TypeAlias = Mapping[str, Any]
"""Tensors by the names that sentence-transformers gives them, and constants of the model."""

_OUTPUTS = ("sentence_embedding", "token_embeddings")
# Texts of one pass: traced, then those on which the graph and the modules are compared.
_EXAMPLES = (
    ["a text", "a longer one, to which the first is padded"],
    ["one", "two", "three"],
    ["word " * 100],
)
_TOLERANCE = 1e-5  # of a component


class Forward:
    """Takes texts through the modules of a SentenceTransformer, one call for each forward pass.

    Module by module, a pass goes back to the interpreter after each of some two hundred operations and waits
    for its lock: two threads on two cores embedded 103 questions a second between them. As a TorchScript
    graph, traced when this is made, a pass does not: 256, with the same vectors. A graph is what tracing saw
    of one example, so it is compared with the modules on others; where it differs, or a model cannot be
    traced, the modules run.

    Safe to use from several threads.
    """

    def __init__(self, model: Any) -> None:
        self._model = model.eval().requires_grad_(False)  # as tracing a function asks
        self._prompt = model.prompts.get(model.default_prompt_name)
        self._run = self._graph() or model

    @property
    def is_graph(self) -> bool:
        """Whether a pass is one graph."""
        return self._run is not self._model

    def __call__(self, texts: list[str]) -> Tensors:
        """The model's outputs for texts that are padded to the longest.

        Among them `sentence_embedding`, float32 (n, d), `token_embeddings`, float32 (n, tokens, d), and
        `attention_mask`, (n, tokens), 0 for padding, as far as the model gives them.
        """
        import torch

        with torch.inference_mode():
            features = self._features(texts)
            return {**features, **self._run(features)}

    def _features(self, texts: list[str]) -> dict[str, Any]:
        features: dict[str, Any] = self._model.preprocess(texts, prompt=self._prompt)
        return features

    def _graph(self) -> Callable[[Tensors], Tensors] | None:
        import torch

        first, *others = map(self._features, _EXAMPLES)
        try:
            with warnings.catch_warnings(), torch.inference_mode():
                warnings.simplefilter("ignore")  # of deprecation, and of what tracing may have missed
                run = _traced(self._model, first)
                same = all(_equal(run(features), self._model(dict(features))) for features in others)
        except Exception:  # whatever a model's modules raise when they are traced
            return None
        return run if same else None


def _traced(model: Any, example: Tensors) -> Callable[[Tensors], Tensors]:
    """The graph that `model` is on the example; it takes tensors of any sizes."""
    import torch

    names = [name for name, value in example.items() if torch.is_tensor(value)]
    constants = {name: value for name, value in example.items() if name not in names}
    given = [name for name in _OUTPUTS if name in model(dict(example))]

    def modules(*tensors: Any) -> tuple[Any, ...]:
        outputs = model(dict(zip(names, tensors, strict=True)) | constants)
        return tuple(outputs[name] for name in given)

    trace: Any = torch.jit.trace
    graph = trace(modules, tuple(example[name] for name in names), check_trace=False)

    def run(features: Tensors) -> Tensors:
        return dict(zip(given, graph(*(features[name] for name in names)), strict=True))

    return run


def _equal(found: Tensors, expected: Tensors) -> bool:
    import torch

    return all(torch.allclose(found[name], expected[name], rtol=0, atol=_TOLERANCE) for name in found)
