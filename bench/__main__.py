"""`python -m bench`."""

import sys

from bench.cli import main


def entry() -> int:
    """The console script `bench`."""
    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(entry())
