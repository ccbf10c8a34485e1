# The first of these that runs and fits makes .venv; `make PYTHON=...` names another.
PYTHON = python3.13 python3.12 python3.11 python3
DEMO = --seeds 10
PEERS = rejax==0.1.3 gymnax==0.0.9 six distrax flashbax stable-baselines3==2.9.2 torch==2.13.0 sbx-rl==0.28.0

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# `fewest`: one version of each package on every Python, so that results compare.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest \
	--custom-compile-command 'make lock' pyproject.toml

# ensurepip is what some Linux distributions split off together with a working venv.
FITS := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))

.PHONY: help bench demo curves test test-slow lint lock clean

help:  ## this list
	@awk -F ':.*## *' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile
	@echo "PYTHON=... picks the interpreter of a new .venv (make clean first), DEMO='...' the demo's flags."

demo: .venv/.runtime  ## train PPO on CartPole-v1
	$(BIN)/rlax-lab train ppo --env CartPole-v1 $(DEMO)

curves: .venv/.runtime  ## the experiments of benchmarks/curves.toml (CURVES='NAME ...' for some)
	$(BIN)/python benchmarks/curves.py $(CURVES)

bench: .venv/.runtime .venv-peers/.ready  ## speed beside others (BENCH='CASE ... --purejaxrl PATH')
	$(BIN)/python benchmarks/throughput.py --peers .venv-peers/bin/python $(BENCH)

test: lint  ## linters, types and the default tests
	$(BIN)/pytest

test-slow: .venv/.test  ## only the tests that take minutes, of learning and of the fab
	$(BIN)/pytest -m slow

lint: .venv/.test  ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

lock: $(BIN)/uv  ## rewrite the lock files; pins that still fit stay (delete a file to renew it)
	@echo "Resolving requirements.lock and requirements-test.lock"
	@# The tests' first: what they can work with binds the other.
	@$(COMPILE) --output-file requirements-test.lock --extra test
	@$(COMPILE) --output-file requirements.lock --constraint requirements-test.lock

clean:  ## remove .venv, caches and build leftovers, but no results
	rm -rf .venv build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# The stamps are touched last, so that an interrupted step is done again.
.venv/.created:
	@for python in $(PYTHON); do \
		"$$python" -c '$(FITS)' >/dev/null 2>&1 || continue; \
		echo "Creating .venv with $$("$$python" --version)"; \
		"$$python" -m venv --clear .venv && touch $@; exit; \
	done; \
	echo "No Python >=3.11,<3.14 with venv among: $(PYTHON). Name one with make PYTHON=..." >&2; exit 1

.venv/.runtime: .venv/.created requirements.lock pyproject.toml
	@echo "Installing rlax_lab and what it needs (takes minutes the first time)"
	@$(PIP) -r requirements.lock
	@$(PIP) --no-deps --editable .
	@touch $@

.venv/.test: .venv/.runtime requirements-test.lock
	@echo "Installing what the tests need"
	@$(PIP) -r requirements-test.lock
	@# Its dispatchers need nothing else; what it asks for would be 400 MB and an older protobuf.
	@$(PIP) --no-deps job-shop-lib==1.7.2
	@touch $@

# Not an extra: no one environment could have both their gymnax and ours.
.venv-peers/.ready: .venv/.created
	@echo "Installing the peers (PyTorch among them: takes minutes)"
	@$(BIN)/python -m venv --clear .venv-peers
	@.venv-peers/bin/pip install --quiet --disable-pip-version-check $(PEERS)
	@touch $@

$(BIN)/uv: .venv/.created
	@echo "Installing uv"
	@$(PIP) uv
	@touch $@
