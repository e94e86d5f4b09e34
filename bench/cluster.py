"""The trials of a sweep on other machines: the nodes of a Ray cluster, one trial to a node at a time.

Each node has one worker, which holds all cores and GPUs that Ray counts there: nothing else that Ray starts
runs beside a trial. A worker measures as `trial.here` does. Whatever is sent, either way, is JSON text.

This machine is a node too, where Ray counts cores on it. What the run does with a result then waits until no
trial is measured here.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench import machine, record, trial
from bench.config import TrialConfig
from bench.errors import MeasurementError, UsageError
from bench.trial import Cell, Ended, Kept, Plan, Task
from brein.scaling.join import silence

# --- on a node -------------------------------------------------------------------------------------


class Worker:
    """Runs one trial at a time on the node it lives on."""

    def look(self, folder: str, tokens: str) -> str:
        """What the node is, and which of the files `tokens` it cannot see; `folder` is to be worked in."""
        unseen = [token for token in json.loads(tokens) if not os.access(token, os.W_OK)]
        if not unseen:
            os.chdir(folder)
        return json.dumps({"traits": _traits(), "unseen": unseen})

    def run(self, text: str) -> str:
        """Run a trial and give what it ended in."""
        asked = json.loads(text)
        config = TrialConfig.read(json.dumps(asked["config"]))
        cell = Cell("", (), config, Kept(Path(), {}))
        (((_, ended),),) = trial.here([Task(cell, Plan(**asked["plan"]), asked["repeat"])])
        return ended.to_json()


def _traits() -> dict[str, str]:
    """What must be the same on every node and on the machine that the run was started on, which builds."""
    described, commit = machine.describe(), machine.commit()
    return {
        "cpu": described.cpu,
        "cores": str(described.cores),
        "memory": f"{described.memory / 2**30:.0f} GiB",
        "system": described.system,
        "architecture": described.architecture,
        "commit": f"{commit.commit[:12]}{' and changes' if commit.dirty else ''}" if commit else "none",
        "niceness": str(os.nice(0)),
        **machine.versions(),
    }


# --- where the run was started -----------------------------------------------------------------------


@dataclass(frozen=True)
class Node:
    """A node of the cluster, its worker, and whether this process runs on it."""

    name: str
    worker: Any
    is_here: bool


@dataclass(frozen=True)
class Cluster:
    """Nodes that are alike, and like this machine."""

    nodes: Sequence[Node]

    def run(self, tasks: Sequence[Task]) -> Iterator[list[tuple[Task, Ended]]]:
        """Run tasks, each in its order on the next node that is free; they come as they end.

        The task of a node that is lost goes to another node, once; then it is recorded as failed.

        Raises:
            MeasurementError: no node is left.
        """
        import ray
        from ray.exceptions import ActorDiedError, ActorUnavailableError

        waiting, free = deque(tasks), deque(self.nodes)
        running: dict[Any, tuple[Node, Task]] = {}
        losses: dict[Task, Node] = {}
        ended = []
        while waiting or running:
            while waiting and free:
                node, task = free.popleft(), waiting.popleft()
                running[node.worker.run.remote(_text(task))] = node, task
            if not running:
                raise MeasurementError(
                    f"no node of the cluster is left; {len(waiting)} trials have not run: start Ray on the "
                    "nodes again, then go on with --resume FOLDER"
                )
            (first,), _ = ray.wait(list(running))
            node, task = running.pop(first)
            try:
                ended.append((task, _ended_on(node, ray.get(first))))
                free.append(node)
            except (ActorDiedError, ActorUnavailableError):
                if task in losses:
                    ended.append((task, _lost(task, losses[task], node)))
                else:
                    losses[task] = node
                    waiting.appendleft(task)
            if ended and not any(node.is_here for node, _ in running.values()):
                yield ended
                ended = []


@contextmanager
def connect(address: str | None, folders: Sequence[Path], patience: float = 60.0) -> Iterator[Cluster]:
    """The nodes of a Ray cluster that have cores for Ray to give; leaving the `with` block ends their trials.

    `address` is host:port; None is that of RAY_ADDRESS, or of a cluster that this machine is in. Every node
    must reach `folders` and the working directory. The cluster, then its nodes, have `patience` seconds to
    answer.

    Raises:
        UsageError: Ray is not installed, no cluster answers, or its nodes cannot be used or differ.
    """
    try:
        import ray
    except ImportError:
        raise UsageError("launcher.place = ray needs ray (pip install 'brein-lab[ray]')") from None

    _check_answers(address, patience)
    ray.init(address or "auto", log_to_driver=False, logging_level=logging.ERROR)
    try:
        found: list[dict[str, Any]] = ray.nodes()
        nodes = [_start(node) for node in found if node["Alive"] and node["Resources"].get("CPU")]
        if not nodes:
            raise UsageError("no node of the Ray cluster has cores to give; start some with --num-cpus")
        _check(nodes, [*folders, Path.cwd()], patience)
        yield Cluster(sorted(nodes, key=lambda node: node.is_here))  # others first: this one has more to do
    finally:
        ray.shutdown()


def _check_answers(address: str | None, patience: float) -> None:
    reason = silence(address or "auto", patience)
    if reason is None:
        return
    where = f"the Ray cluster at {address} (launcher.address)" if address else "a Ray cluster"
    raise UsageError(
        f"{where} cannot be joined: {reason}; see that `ray start` was run on this machine, too, or take "
        "launcher.place=local"
    )


def _start(node: Mapping[str, Any]) -> Node:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    worker = ray.remote(Worker).options(
        num_cpus=node["Resources"]["CPU"],
        num_gpus=node["Resources"].get("GPU", 0),
        scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
    )
    name = f"{node['NodeName']}/{node['NodeID'][:8]}"
    return Node(name, worker.remote(), node["NodeID"] == ray.get_runtime_context().get_node_id())


def _check(nodes: Sequence[Node], folders: Sequence[Path], patience: float) -> None:
    """Raises UsageError: a node is silent, does not see a folder, or differs from this machine."""
    import ray
    from ray.exceptions import RayError

    here = _traits()
    with _tokens(folders) as tokens:
        asked = {node.worker.look.remote(os.getcwd(), json.dumps(tokens)): node for node in nodes}
        answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=patience)
        if silent:
            raise UsageError(
                f"node {asked[silent[0]].name} gave no answer in {patience:g} s: wait until nothing else "
                "holds its cores, or start it with --num-cpus=0 to leave it out"
            )
        for answer in answered:
            try:
                check_node(asked[answer].name, here, **json.loads(ray.get(answer)))
            except RayError as error:
                last = str(error).strip().splitlines()[-1]
                raise UsageError(
                    f"node {asked[answer].name} cannot run trials: {last}; install the lab there"
                ) from None


def check_node(name: str, here: Mapping[str, str], traits: Mapping[str, str], unseen: Sequence[str]) -> None:
    """Raises UsageError: a node has other `traits` than this machine, or lacks some of its files."""
    if unseen:
        raise UsageError(
            f"node {name} cannot write to the {Path(unseen[0]).parent} of this machine: artifacts, runs and "
            "the working directory must be on storage that all nodes share, under the same path"
        )
    differ = [
        f"{trait} ({traits.get(trait, 'none')}, here {here.get(trait, 'none')})"
        for trait in {**here, **traits}
        if here.get(trait) != traits.get(trait)
    ]
    if differ:
        raise UsageError(
            f"node {name} differs from this machine in {', '.join(differ)}: figures would not compare; "
            "install the same, start Ray with RAY_worker_niceness=0, or leave the node out with --num-cpus=0"
        )


@contextmanager
def _tokens(folders: Sequence[Path]) -> Iterator[list[str]]:
    """A file in each folder, of a name that nothing else has."""
    tokens = [folder.absolute() / f".seen-{secrets.token_hex(8)}" for folder in folders]
    try:
        for token in tokens:
            token.parent.mkdir(parents=True, exist_ok=True)
            token.touch()
        yield [str(token) for token in tokens]
    finally:
        for token in tokens:
            token.unlink(missing_ok=True)


def _text(task: Task) -> str:
    plan = task.plan
    return json.dumps(
        {
            "plan": {
                "suite": plan.suite,
                "phase": plan.phase,
                "target": plan.target,
                "argument": dict(plan.argument),
            },
            "repeat": task.repeat,
            "config": task.config.model_dump(mode="json"),
        }
    )


def _ended_on(node: Node, text: str) -> Ended:
    ended = Ended.from_json(text)
    facts = {**ended.trial.facts, "node": node.name}
    return Ended(ended.trial.model_copy(update={"facts": facts}), ended.rows)


def _lost(task: Task, first: Node, second: Node) -> Ended:
    lost = record.Trial(
        suite=task.plan.suite,
        phase=task.plan.phase,
        repeat=task.repeat,
        seed=task.seed,
        status="failed",
        reason=f"both nodes that ran it were lost: {first.name}, then {second.name}",
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        wall=0.0,
        facts={"node": second.name},
    )
    return Ended(lost, [])
