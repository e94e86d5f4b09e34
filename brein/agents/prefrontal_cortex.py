"""Reasoning: the agent that composes an answer from documents found."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from brein.agents.agent import Agent
from brein.agents.base import Batch
from brein.agents.coordinator import Evidence
from brein.agents.generation import NO_ANSWER, Generator, for_ever
from brein.agents.limits import AgentConfig
from brein.agents.models import select_optimal_model
from brein.agents.workers import InThreads, Outcomes, Threads, one_by_one
from brein.records import Answer, Emotion, Hit


class PrefrontalCortex:
    """Lets the model that a question's complexity asks for answer from the evidence.

    `generators` are under the names of their models and hold `extractive`, as `generation.create` makes them.
    Safe to use from several threads.
    """

    def __init__(self, generators: Mapping[str, Generator], max_tokens: int = 256) -> None:
        self._generators = generators
        self._max_tokens = max_tokens

    def answer(
        self,
        question: str,
        evidence: Sequence[Hit],
        complexity: float,
        remaining: Callable[[], float] = for_ever,
        feeling: str | None = None,
    ) -> Answer:
        """Answer `question` from `evidence`, best first; `complexity` is from 0 to 1.

        Citations are ids of the evidence, never others. `remaining` and `feeling` are as
        `Generator.generate` takes them.

        Raises:
            DataError: the question is blank, too long or no text, the evidence are no hits, or the complexity
                is no number from 0 to 1.
            GenerationError: the model cannot be reached, refuses, is too slow or answers nonsense.
            ModelError: the model cannot be loaded.
        """
        selection = select_optimal_model(complexity, self._generators)
        generator = self._generators[selection.name]
        generated = generator.generate(question, evidence, self._max_tokens, remaining, feeling)
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

    def answer_batch(self, batch: Batch[Evidence[Emotion]]) -> Outcomes[Answer]:
        """Answer the requests of a batch one after the other, for as long as anyone waits for the answers."""

        def answer(asked: Evidence[Emotion]) -> Answer:
            feeling = None if asked.emotion is None else asked.emotion.label
            return self.answer(asked.query, asked.hits, asked.complexity, batch.remaining, feeling)

        return one_by_one(answer)(batch)


def open_prefrontal_cortex(
    prefrontal_cortex: PrefrontalCortex,
    config: AgentConfig,
    clock: Callable[[], float] = time.monotonic,
    threads: Threads | None = None,
) -> Agent[Evidence[Emotion], Answer]:
    """The agent that composes answers."""
    worker = InThreads(prefrontal_cortex.answer_batch, "prefrontal_cortex", threads)
    return Agent("prefrontal_cortex", config, worker, clock)
