"""Reasoning: the agent that composes an answer from documents found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from brein.agents.generation import NO_ANSWER, Generator
from brein.agents.models import select_optimal_model
from brein.records import Answer, Hit


class PrefrontalCortex:
    """Lets the model that a question's complexity asks for answer from the evidence.

    `generators` are under the names of their models and hold `extractive`, as `generation.create` makes them.
    """

    def __init__(self, generators: Mapping[str, Generator], max_tokens: int = 256) -> None:
        self._generators = generators
        self._max_tokens = max_tokens

    def answer(self, question: str, evidence: Sequence[Hit], complexity: float) -> Answer:
        """Answer `question` from `evidence`, best first; `complexity` is from 0 to 1.

        Citations are ids of the evidence, never others.

        Raises:
            DataError: the question is blank, too long or no text, the evidence are no hits, or the complexity
                is no number from 0 to 1.
            GenerationError: the model cannot be reached, refuses, is too slow or answers nonsense.
            ModelError: the model cannot be loaded.
        """
        selection = select_optimal_model(complexity, self._generators)
        generated = self._generators[selection.name].generate(question, evidence, self._max_tokens)
        notes = [f"{selection.reason}: {selection.name} answered"] if selection.reason else []
        if not evidence:
            notes.append("no document was found")
        elif not generated.citations and generated.text != NO_ANSWER:
            notes.append("the answer cites none of the documents")
        return Answer(
            generated.text,
            generated.citations,
            generated.model,
            selection.wanted,
            (*notes, *generated.notes),
        )
