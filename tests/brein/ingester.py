"""The child of the durability tests: opens an engine, ingests, deletes, reopens, closes.

`python ingester.py` imports everything once, then forks a process for each job, a line of JSON on stdin:
`config` (of the engine), `first` and `last` (the steps to take), `pause`. The job's actions are to open, to
take each step, and to close. Its process and the parent talk over the same two pipes, one line at a time:

    waiting PID    action number `pause` is next; the process waits for a line, so that a tracer can attach
    done           an action has returned
    failed WHY     the engine raised one of its errors; the process waits for a line, then tries again
    crashed WHY    anything else was raised, a disagreement among them
    ended STATUS   the process is gone; a negative status is the signal that ended it
"""

import ctypes
import faulthandler
import functools
import json
import os
import sys
import traceback

import numpy as np

from brein import Document, Engine, EngineConfig
from brein.embedding.hashing import HashingConfig, HashingEmbedder
from brein.errors import BreinError

KINDS = ("ingest", "ingest", "delete", "reopen", "ingest", "delete", "ingest", "ingest")  # of step n modulo 8
EMBEDDING = HashingConfig(dimension=64)
PATIENCE = 60  # seconds until a job is taken to hang
PR_SET_PTRACER = 0x59616D61


def main():
    with Engine.open(EngineConfig(embedding=EMBEDDING)) as engine:  # so that no job has to import anything
        engine.ingest([Document("a", "warm up")])
        engine.search("warm up")
    for line in sys.stdin:
        if (pid := os.fork()) == 0:
            run(json.loads(line))
        _, status = os.waitpid(pid, 0)
        say(f"ended {os.waitstatus_to_exitcode(status)}")


def run(job):
    faulthandler.dump_traceback_later(PATIENCE, exit=True)
    # Some kernels let only a parent trace, unless told otherwise.
    ctypes.CDLL(None).prctl(PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)
    try:
        Ingester(job["config"], job["first"]).act(job["last"], job["pause"])
    except BaseException:
        say(f"crashed {traceback.format_exc()!r}")
        os._exit(1)
    os._exit(0)  # at once: what runs at a normal exit, coverage for one, writes files


def say(line):
    os.writev(1, [line.encode() + b"\n"])  # not write, which is among the calls that are made to fail


def wait():
    if not sys.stdin.readline():
        raise EOFError("the parent has gone")


class Ingester:
    def __init__(self, config, first):
        self.config = EngineConfig.model_validate_json(json.dumps(config))
        self.single_file = config["storage"].get("shards", 1) == 1
        self.step = first
        self.contents = functools.reduce(lambda contents, step: outcome(step, contents), range(first), {})
        self.engine = None

    def act(self, last, pause):
        actions = [self.reopen, *[self.take_step] * (last - self.step), self.close]
        for number, action in enumerate(actions):
            if number == pause:
                say(f"waiting {os.getpid()}")
                wait()
            self.attempt(action)
            say("done")

    def attempt(self, action):
        """Do it, over and over where it fails; a failure must leave documents and vectors in agreement."""
        while True:
            try:
                return action()
            except BreinError as error:
                if self.engine is not None:
                    self.check()
                say(f"failed {type(error).__name__}: {error}")
                wait()

    def take_step(self):
        match operation(self.step):
            case "ingest", documents:
                self.engine.ingest(documents)
            case "delete", ids:
                self.engine.delete(ids)
            case "reopen", _:
                self.reopen()
        self.contents = outcome(self.step, self.contents)
        self.step += 1

    def reopen(self):
        self.close()
        self.engine = Engine.open(self.config)
        self.check()

    def close(self):
        if self.engine is not None:
            self.check()
            closing, self.engine = self.engine, None
            closing.close()

    def check(self):
        """The documents are those before this step or after it, and the index holds exactly their vectors."""
        before, after = self.contents, outcome(self.step, self.contents)
        found = {id_: document for id_ in before | after if (document := self.engine.get(id_))}
        mixed = [i for i in before | after if found.get(i) not in (before.get(i), after.get(i))]
        assert not mixed, f"step {self.step} leaves {[found.get(id_) for id_ in mixed]}"
        assert not self.single_file or found in (before, after), f"step {self.step} is done by half: {found}"
        assert len(self.engine) == len(found), f"step {self.step}: length {len(self.engine)}, found {found}"
        for document in found.values():
            vector = HashingEmbedder(EMBEDDING).embed([document.text])[0]
            hits = self.engine.search(vector, len(found) + 10)
            best = hits[0]
            assert (best.id, best.text) == (document.id, document.text), f"{document} finds {best}"
            assert abs(best.score - 1) < 1e-5, f"{document} has another vector: {best}"
            assert sorted(hit.id for hit in hits) == sorted(found), f"{hits} of {found}"


def operation(step):
    """Its kind, and the documents or ids it takes: always the same, so that every process knows them."""
    random = np.random.default_rng(step)
    kind = KINDS[step % len(KINDS)]
    ids = [f"d{number}" for number in random.choice(30, 4, replace=False)]
    return kind, [document(id_, step, random) for id_ in ids] if kind == "ingest" else ids


def document(id_, step, random):
    """Some are longer than a page of the file."""
    words = [
        f"{number:x}" for number in random.integers(2**32, size=random.choice([10, 10, 10, 600])).tolist()
    ]
    return Document(id_, " ".join(words), {"step": step, "words": len(words)})


def outcome(step, contents):
    """The documents by id after `step`, given those before it."""
    match operation(step):
        case "ingest", documents:
            return contents | {document.id: document for document in documents}
        case "delete", ids:
            return {id_: document for id_, document in contents.items() if id_ not in ids}
        case _:
            return contents


if __name__ == "__main__":
    main()
