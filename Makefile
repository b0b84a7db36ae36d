# make book   execute the chapters and build _build/html; the sources stay as they are
# make test   everything that CI checks, in two processes
# make check  format, lint, types, and the tests that train nothing: the inner loop
# make serve  JupyterLab on the book: every chapter live, with its formulas and references
# make bench  speed and memory beside other libraries, and the page of the book that says so: under 10 minutes
#
# Each makes .venv first, with whatever python3 >= 3.10 there is. With npm the book also works without a network.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.installed $(if $(shell command -v npm),node_modules/.installed)

.PHONY: book test check serve bench lint clean
.DELETE_ON_ERROR:

book: $(READY)
	$(BIN)/python -m reproduction book

# Two processes on two cores: a kernel of its own for each chapter takes as many threads as there are cores, and four on two
# cores wait for each other (nbval 12 minutes, 2 with one thread).
test check: export OMP_NUM_THREADS = 1

test: lint
	$(BIN)/pytest -n 2 --dist loadfile --cov --cov-report=term:skip-covered
	$(BIN)/pytest -n 2 --dist loadfile --nbval-lax --nbval-current-env book

check: lint
	$(BIN)/pytest -n 2 --dist loadfile -m "not training"

# The folder that is opened is the checkout, so that chapters find their pictures and the library its records.
serve: .venv/.serve
	$(BIN)/jupyter lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/book/gygli/method.ipynb

bench: .venv/.bench
	$(BIN)/python -m benchmarks

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(if $(shell command -v npm),npm run --silent lint)

clean:
	rm -rf .venv node_modules _build .pytest_cache .ruff_cache .import_linter_cache

.venv/.installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed, %s is %s; name another with PYTHON=..." % (sys.executable, sys.version.split()[0]))'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --config-settings editable_mode=compat -e .
	@touch $@

# JupyterLab, and what shows it the roles and directives of the chapters.
.venv/.serve: .venv/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --config-settings editable_mode=compat -e '.[live]'
	@touch $@

# What ours is measured against, beside what the book needs.
.venv/.bench: .venv/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation --config-settings editable_mode=compat -e '.[bench]'
	@touch $@

node_modules/.installed: package.json package-lock.json
	npm ci --ignore-scripts
	@touch $@
