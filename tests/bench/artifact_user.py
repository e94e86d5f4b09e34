"""A process that uses the store, one step for each line it is told on standard input.

python artifact_user.py ROOT: `get TEXT` gets the artifact of that text and says its folder, `build TEXT` the
same but waits for a line while it builds, `child` starts a process that outlives this one and says its id.
"""

import subprocess
import sys
from pathlib import Path

from bench.artifacts import Store


def say(text):
    print(text, flush=True)


def user(root):
    store = Store(Path(root), say)
    for line in sys.stdin:
        verb, _, text = line.strip().partition(" ")
        if verb == "child":
            say(subprocess.Popen(["sleep", "600"]).pid)
            continue

        def build(folder, text=text, waits=verb == "build"):
            (folder / "first").write_text(text)
            if waits:
                say("half")
                sys.stdin.readline()
            (folder / "second").write_text(text)

        say(store.get_or_build("things", {"text": text}, build))


if __name__ == "__main__":
    user(sys.argv[1])
