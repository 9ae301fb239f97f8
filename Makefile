# Everything installs into .venv; remove that folder to start over.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
SOURCES := pyproject.toml setup.py $(wildcard dflash_serve/kernels/csrc/* dflash_serve/kernels/native/*)
ARGS ?=
FRAMEWORKS := tests/clients/test_frameworks.py
QUICK := tests/server tests/text tests/compose tests/test_dependencies.py tests/test_console.py \
	tests/engine/test_async_client.py tests/engine/test_grammar.py tests/e2e/test_openai_client.py
NEWEST := $(FRAMEWORKS) $(addprefix tests/clients/,test_openai.py test_openai_doors.py test_wire_types.py)

.PHONY: serve test test-clients test-lowest lint format test-metal bench clean

serve: .venv/serve  ## Serve the embedded demo pair on 127.0.0.1:8000
	$(BIN)/dflash-serve $(ARGS)

# Processes that tests start read what the first one has compiled of the package. Files go out in
# their order: by the number of tests the longest would come last.
test: .venv/dev  ## Run every test that this machine can run
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 \
		--dist loadfile --no-loadscope-reorder $(ARGS)

test-clients: .venv/serve .clients/ready  ## The clients that people use, each against a real server
	.clients/venv/bin/python -m pytest -c tests/clients/pytest.ini tests/clients --ignore=$(FRAMEWORKS) $(ARGS)
	.clients/newest/bin/python -m pytest -c tests/clients/pytest.ini $(NEWEST) $(ARGS)

test-lowest: .venv/dev .lowest/ready  ## Quick tests with the lowest versions that the pins allow
	.lowest/venv/bin/python -m pytest $(QUICK) $(ARGS)

lint: .venv/dev  ## Format check, ruff, mypy strict, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test-metal: .venv/dev  ## On an Apple-silicon Mac: the kernels against their references
	$(BIN)/python -m pytest -m metal

bench: .venv/dev  ## Speculative against plain decoding of the demo pair
	$(BIN)/dflash-bench decode

clean:
	rm -rf .venv .clients .lowest tests/clients/node/node_modules build *.egg-info dflash_serve/kernels/*.so

.venv/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip

.venv/serve: .venv/bin/python $(SOURCES)
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

# dflash is z-lab's own package, which the tests draft against on MLX. Without its dependencies: it
# pins other versions of mlx, mlx-lm and datasets than ours.
.venv/dev: .venv/bin/python $(SOURCES) Makefile
	$(BIN)/python -m pip install --quiet --editable '.[test,lint,train,bench]'
	$(BIN)/python -m pip install --quiet --no-deps dflash==0.1.0
	@touch $@ .venv/serve

# The package itself is taken from this directory, with the matmul that .venv/dev has built.
.lowest/ready: pyproject.toml tools/lowest.py .venv/dev
	$(PYTHON) -m venv --clear .lowest/venv
	$(BIN)/python tools/lowest.py test train bench > .lowest/pins.txt
	.lowest/venv/bin/python -m pip install --quiet -r .lowest/pins.txt
	@touch $@

# Clients pin each other's versions, so they stay out of .venv; some hold openai back, so the newest
# one has a place of its own.
.clients/ready: tests/clients/requirements.txt tests/clients/newest.txt tests/clients/node/package.json
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed" >&2; exit 1; }
	@command -v npm >/dev/null || { echo "Node 20 or newer with npm is needed" >&2; exit 1; }
	$(PYTHON) -m venv .clients/venv
	.clients/venv/bin/python -m pip install --quiet --upgrade pip
	.clients/venv/bin/python -m pip install --quiet -r tests/clients/requirements.txt
	$(PYTHON) -m venv .clients/newest
	.clients/newest/bin/python -m pip install --quiet --upgrade pip
	.clients/newest/bin/python -m pip install --quiet -r tests/clients/newest.txt
	cd tests/clients/node && npm install --no-audit --no-fund --loglevel=error
	@touch $@
