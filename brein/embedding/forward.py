"""A model's forward pass as one graph, which runs without the interpreter."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from brein.errors import first_line

Tensors: TypeAlias = Mapping[str, Any]
"""Tensors by the names that sentence-transformers gives them, and constants of the model."""

_OUTPUTS = ("sentence_embedding", "token_embeddings")
_LONGEST = 512  # tokens of a text on which graph and modules are compared; longer ones take the modules
_TOLERANCE = 1e-5  # of a component

_log = logging.getLogger(__name__)


class Forward:
    """Takes texts through the modules of a SentenceTransformer, one call for each forward pass.

    Module by module, a pass goes back to the interpreter after each of some two hundred operations and waits
    for its lock: two threads on two cores embedded 158 questions a second between them. As a TorchScript
    graph, traced when this is made, a pass does not: 267, with the same vectors. A graph is what tracing saw
    of one example, so it is compared with the modules on others. Where it differs, or a model cannot be
    traced, the modules run, and the log says so; also on texts of more tokens than were compared.

    Safe to use from several threads.
    """

    def __init__(self, model: Any) -> None:
        self._model = model.eval().float().requires_grad_(False)  # as tracing a function asks
        self._prompt = model.prompts.get(model.default_prompt_name)
        self._compared = 0  # tokens of a text up to which the graph may run
        self._graph = self._made_graph()

    def __call__(self, texts: list[str]) -> Tensors:
        """The model's outputs for texts that are padded to the longest.

        Among them `sentence_embedding`, float32 (n, d), `token_embeddings`, float32 (n, tokens, d), and
        `attention_mask`, (n, tokens), 0 for padding, as far as the model gives them.
        """
        import torch

        with torch.inference_mode():
            features = self._features(texts)
            if self._graph is None or _tokens(features) > self._compared:
                return {**features, **self._model(dict(features))}
            return {**features, **self._graph(features)}

    def _features(self, texts: list[str]) -> dict[str, Any]:
        features: dict[str, Any] = self._model.preprocess(texts, prompt=self._prompt)
        return features

    def _made_graph(self) -> Callable[[Tensors], Tensors] | None:
        import torch

        longest = "word " * min(self._model.max_seq_length or _LONGEST, _LONGEST)
        traced = self._features(["a text", "a longer one, to which the first is padded"])
        compared = [self._features(texts) for texts in (["one", "two", "three"], [longest, "a short text"])]
        try:
            with warnings.catch_warnings(), torch.inference_mode():
                warnings.simplefilter("ignore")  # of deprecation, and of what tracing may have missed
                graph = _traced(self._model, traced)
                same = all(_equal(graph(features), self._model(dict(features))) for features in compared)
            self._compared = max(map(_tokens, compared))
        except Exception as error:  # whatever a model's modules raise when they are traced
            _log.warning("the model is no graph and embeds more slowly: %s", first_line(error))
            return None
        if not same:
            _log.warning("the model is no graph and embeds more slowly: its graph gives other vectors")
        return graph if same else None


def _tokens(features: Tensors) -> int:
    """Tokens of the longest text."""
    return int(features["attention_mask"].shape[1])


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
