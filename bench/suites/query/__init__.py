"""Suite `query`: text in, hits out, through the whole engine.

| part | measures |
|---|---|
| cold | every query once while no cache knows it: stage by stage, and where quality is judged |
| popular | a stream of requests for them, as `popularity` describes it, from empty caches |
| filtered | queries among stated shares of the documents, chosen by a condition on their metadata |
| ablation | the pipeline with one stage changed at a time, query by query |
| batching | queries embedded by several clients at once, in shared calls of the model and alone |

Of the filtered queries, the vectors go to the index, and the texts through every stage.
`suite.query.parts` says which of them run; the first three in one process, one after another.
"""

from __future__ import annotations

from bench.artifacts import Artifact
from bench.suites import ingested
from bench.suites.base import Experiment
from bench.suites.query import ablation, batching, passes
from bench.trial import Work
from bench.workload import embeddings


def check(experiment: Experiment) -> None:
    """Refuse what cannot be measured, before anything is made.

    Raises:
        UsageError: the data set is no text, or has too few documents for the index or for k; a trace cannot
            be replayed.
    """
    dataset = experiment.text("query")
    experiment.check_size(len(dataset.documents), "documents", experiment.config.suite.query.k)
    passes.stream(experiment, dataset)


def artifacts(experiment: Experiment) -> list[Artifact]:
    """What `plan` makes, known without making it."""
    dataset, wanted = experiment.text("query"), experiment.config.suite.query.parts
    is_judged = any(dataset.judgements.get(query.id) for query in dataset.queries)
    searching = {*passes.PARTS, *(["ablation"] if is_judged else [])}
    if experiment.lacks_gpu() or searching.isdisjoint(wanted):
        return []
    return [
        embeddings.text_artifact(dataset, experiment.config.embedding),
        ingested.artifact(experiment, dataset),
    ]


def plan(experiment: Experiment) -> list[Work]:
    """Make what the trials need, and say what they are, or that a GPU is missing."""
    if experiment.lacks_gpu():
        return [Work(skipped={"query": "needs a GPU"})]
    wanted = experiment.config.suite.query.parts
    return [
        passes.plan(experiment),
        *(
            part.plan(experiment)
            if name in wanted
            else Work(skipped={part.SERIES: f"suite.query.parts leaves {name} out"})
            for name, part in (("ablation", ablation), ("batching", batching))
        ),
    ]
