# make run    a first answer: sets up .venv, measures the small data set, names the report
# make test   everything CI checks          make check   the quick half: no slow tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test check lint tools clean

run: $(VENV)/.installed
	$(BIN)/python -m bench run +profile=small_dataset

test: lint tools
	$(BIN)/pytest --numprocesses=auto --dist=loadfile --cov --cov-report=term

check: lint
	$(BIN)/pytest --numprocesses=auto --dist=loadfile -m "not slow"

lint: $(VENV)/.tested
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# Tests drive a real browser, make system calls fail, and have a real Prometheus scrape. Where this cannot
# install what they need, they say so.
tools:
	@{ command -v chromium && command -v strace && command -v prometheus; } >/dev/null || { \
		[ "$$(id -u)" = 0 ] && command -v apt-get && apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
		apt-get install -y -qq --no-install-recommends chromium strace prometheus; } >/dev/null || \
		echo "Chromium, strace or Prometheus is absent: tests that need it are skipped, or fail in CI"

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(BIN)/pip install --quiet --editable ".[test]"
	touch $@

clean:
	rm -rf $(VENV) build dist .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis
