# Two commands on a fresh machine: `make demo` and `make test`. Each installs what it needs into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

.PHONY: help demo drill drill-full test check format lock bench bench-growth bench-reconcile planted-breaks fuzz simulate model saboteurs clean
.PHONY: bench-seals bench-statement hledger

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-14s %s\n", $$1, $$2}'

$(INSTALLED): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Coatcheck needs Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the locked requirements into $(VENV) (once) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(INSTALLED)  ## play a shopping evening and prove that nobody was charged twice
	@$(BIN)/coatcheck demo

drill: $(INSTALLED)  ## break everything on purpose for five minutes, and prove that no money was lost
	@$(BIN)/coatcheck drill --seconds 300

drill-full: $(INSTALLED)  ## the same for an hour: 250,000 payments, 1,000 kills of gateways, 50 of PostgreSQL
	@$(BIN)/coatcheck drill --seconds 3600 --clients 224

check: $(INSTALLED)  ## format, lint, types and floors, without running a test
	$(BIN)/ruff format --check src tests bench
	$(BIN)/ruff check src tests bench
	$(BIN)/mypy
	$(BIN)/lint-imports

# One of the two programs that judge our exports; the other one is in the lock. Without it their test fails, and says so.
hledger:
	@command -v hledger >/dev/null || if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing hledger (once) ..."; \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends hledger >/dev/null || \
			echo "hledger could not be installed: the test of the exports is going to fail"; \
	else \
		echo "The test of the exports needs hledger, which only root can install: sudo apt-get install hledger"; \
	fi

test: check hledger  ## everything CI runs: check, then every test
	$(BIN)/pytest -n 2 --dist worksteal

format: $(INSTALLED)  ## format the code
	$(BIN)/ruff format src tests bench
	$(BIN)/ruff check --fix src tests bench

bench: $(INSTALLED)  ## print the README's figures but the last three, which have commands of their own (about six minutes)
	@$(BIN)/python bench/run.py

N ?= 1000000
simulate: $(INSTALLED)  ## play N payments through faults and crashes: make simulate N=20000 [SEED=7]
	@$(BIN)/python -m tests.simulation.many $(N) $(if $(SEED),--seed $(SEED))

bench-growth: $(INSTALLED)  ## throughput with five million orders in the tables
	@$(BIN)/python bench/growth.py --orders 5000000

bench-reconcile: $(INSTALLED)  ## a settlement file of a million lines against a million orders
	@$(BIN)/python bench/reconcile.py

bench-statement: $(INSTALLED)  ## a page of an account's statement with ten million transfers in the books
	@$(BIN)/python bench/statement.py

bench-seals: $(INSTALLED)  ## rows sealed and verified per second, and what sealing costs a payment
	@$(BIN)/python bench/sealing.py

planted-breaks: $(INSTALLED)  ## settlement files with thousands of breaks planted: all are found, no other is
	@$(BIN)/python -m tests.integration.planted --lines 200000

FUZZ_S ?= 60
fuzz: $(INSTALLED)  ## damaged files for every format, guided by coverage where atheris can be had: make fuzz [FUZZ_S=600]
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r tests/fuzz/requirements.txt || true
	@$(BIN)/python -m tests.fuzz.fuzz_formats --each $(FUZZ_S)

model:  ## check every order of events of one charge with the spin model checker (a few minutes)
	@$(PYTHON) model/check.py

saboteurs: $(INSTALLED)  ## break the money path line by line and see that a named test catches each (a few minutes)
	@$(BIN)/python -m tests.saboteurs.run

lock: $(INSTALLED)  ## renew both lock files: names, versions and hashes
	$(BIN)/python -m uv pip compile --quiet pyproject.toml --universal --python-version 3.11 --generate-hashes \
		--upgrade --no-emit-index-url --no-emit-find-links --no-annotate --no-header -o requirements.lock
	$(BIN)/python -m uv pip compile --quiet pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
		--upgrade --no-emit-index-url --no-emit-find-links --no-annotate --no-header -o requirements-dev.lock

clean:  ## remove what the other commands made, the demo's data too
	rm -rf $(VENV) coatcheck-data .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
