# Everything installs into .venv; remove that folder to start over.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
SOURCES := pyproject.toml setup.py $(wildcard dflash_serve/kernels/csrc/*)
ARGS ?=

.PHONY: serve test lint format test-metal bench clean

serve: .venv/serve  ## Serve the embedded demo pair on 127.0.0.1:8000
	$(BIN)/dflash-serve $(ARGS)

test: .venv/dev  ## Run every test that this machine can run
	$(BIN)/python -m pytest $(ARGS)

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
	rm -rf .venv build *.egg-info dflash_serve/kernels/*.so

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
