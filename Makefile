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
# get what they need, they say so. Prometheus is unpacked, since Debian's package, installed, starts a server.
tools: $(VENV)/.tested
	@{ command -v chromium && command -v strace; } >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get && \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
		--no-install-recommends chromium strace; } >/dev/null || \
		echo "Chromium or strace is absent: tests that need it are skipped, or fail in CI"
	@{ command -v prometheus || command -v $(BIN)/prometheus; } >/dev/null || { cd $(VENV) && \
		{ [ "$$(id -u)" != 0 ] || apt-get update -qq; } && apt-get download -qq prometheus && \
		dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x --strip-components=3 -C bin ./usr/bin/prometheus \
		./usr/bin/promtool && rm prometheus_*.deb; } >/dev/null 2>&1 || \
		echo "Prometheus is absent: tests that need it are skipped, or fail in CI"

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/.tested: $(VENV)/.installed
	$(BIN)/pip install --quiet --editable ".[test]"
	touch $@

clean:
	rm -rf $(VENV) build dist .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis
