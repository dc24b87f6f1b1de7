# Everything lives in .venv; nothing is installed outside this folder.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
# A folder with a "torch …+cpu" wheel may be given in PIP_FIND_LINKS; without one uv takes PyTorch's CPU index.
TORCH := $(if $(wildcard $(PIP_FIND_LINKS)/torch-*+cpu*.whl),--find-links $(PIP_FIND_LINKS),--torch-backend cpu)
UV := $(BIN)/uv pip

.PHONY: install demo test check bench lock proto down clean

install: $(VENV)/.installed

$(VENV)/.installed: requirements/lock.txt requirements/overrides.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.13.8'
	UV_HTTP_TIMEOUT=180 $(UV) install --quiet --python $(BIN)/python --compile-bytecode --no-deps $(TORCH) -r requirements/lock.txt
	$(UV) install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

demo: install
	$(BIN)/enchanted demo

# Two files at a time: most tests wait for servers. The folders with the longest come first.
test: install
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --durations=15

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p enchanted
	$(BIN)/lint-imports
	$(BIN)/python -m enchanted.schemas.generate --check
	$(BIN)/python -m enchanted.serve.openapi --check

bench: install
	$(BIN)/enchanted bench

# Make the lock anew after changing dependencies in pyproject.toml.
lock: install
	$(UV) compile --quiet --no-header --no-annotate --upgrade $(TORCH) --overrides requirements/overrides.txt \
	  --extra cpu --extra dev pyproject.toml -o requirements/lock.txt

proto: install
	$(BIN)/python -m enchanted.schemas.generate

down:
	$(BIN)/enchanted down

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache
