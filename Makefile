# make run    set up and start Ringback          make test   everything CI does
# make lint   ruff, mypy, import-linter          make lock   renew the lock files (needs uv)
# make bench  measured speed                     make drill  kill -9 and restore, against real processes

VENV   := .venv
PYTHON := $(VENV)/bin/python
UV     := $(shell command -v uv 2>/dev/null)
PYTEST_ARGS ?=

# Both installers check the same hashes; uv is only quicker.
ifeq ($(UV),)
INSTALL := $(VENV)/bin/pip install --quiet --disable-pip-version-check --use-pep517
else
INSTALL := $(UV) pip install --quiet --python $(PYTHON)
endif

LOCK_FLAGS := --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	--no-emit-index-url --no-emit-find-links

.PHONY: run test bench drill venv lock lint
.DELETE_ON_ERROR:

run: $(VENV)/.ok
	$(VENV)/bin/ringback run

test: $(VENV)/.dev-ok
	$(PYTHON) -m tests.servers --install-missing
	$(MAKE) --no-print-directory lint
	$(PYTHON) -m pytest -n 2 --dist loadfile $(PYTEST_ARGS)

lint: $(VENV)/.dev-ok
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-logo

bench: $(VENV)/.dev-ok
	$(PYTHON) -m tests.bench

drill: $(VENV)/.dev-ok
	$(PYTHON) -m tests.drill

venv: $(VENV)/.ok

lock:
	@test -n "$(UV)" || { echo "make lock needs uv on the PATH (pip install uv)"; exit 1; }
	$(UV) pip compile $(LOCK_FLAGS) pyproject.toml --group build -o requirements.lock
	$(UV) pip compile $(LOCK_FLAGS) pyproject.toml --group build --group dev -c requirements.lock -o requirements-dev.lock

# A virtual environment whose interpreter has gone (an upgraded or another Python) is made anew.
$(VENV)/.ok: requirements.lock pyproject.toml
	@python3 -c 'import ensurepip' 2>/dev/null || { echo "Python cannot make virtual environments here: apt-get install python3-venv"; exit 1; }
	@$(PYTHON) -m pip --version >/dev/null 2>&1 || python3 -m venv --clear $(VENV)
	$(INSTALL) --require-hashes -r requirements.lock
	$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev-ok: $(VENV)/.ok requirements-dev.lock
	$(INSTALL) --require-hashes -r requirements-dev.lock
	@touch $@
