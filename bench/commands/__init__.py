"""The commands of `python -m bench`; each module has a SUMMARY and a main(argv) that gives the exit code."""
