# Everything lives in .venv; nothing is installed outside this folder.
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
# A folder with a "torch …+cpu" wheel may be given in PIP_FIND_LINKS; without one uv takes PyTorch's CPU index.
TORCH := $(if $(wildcard $(PIP_FIND_LINKS)/torch-*+cpu*.whl),--find-links $(PIP_FIND_LINKS),--torch-backend cpu)
UV := $(BIN)/uv pip
UI := serve/ui

.PHONY: install demo test long check bench lock proto ui ui-check down clean

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

# What is marked slow, one after the other: it measures times and kills what others would need. As root all of it.
long: install
	$(BIN)/python -m pytest -q -m slow --durations=15

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p enchanted
	$(BIN)/lint-imports
	$(BIN)/python -m enchanted.schemas.generate --check
	$(BIN)/python -m enchanted.serve.openapi --check
	@if node -e 'const [a, b] = process.versions.node.split("."); process.exit(a * 100 + +b < 2019 ? 1 : 0)' 2>/dev/null; \
	then $(MAKE) --no-print-directory ui-check; \
	else echo 'note: no Node.js 20.19 or newer here, so the page (serve/ui) was not held against its built files'; fi

bench: install
	$(BIN)/enchanted bench

# Make the lock anew after changing dependencies in pyproject.toml.
lock: install
	$(UV) compile --quiet --no-header --no-annotate --upgrade $(TORCH) --overrides requirements/overrides.txt \
	  --extra cpu --extra dev pyproject.toml -o requirements/lock.txt

proto: install
	$(BIN)/python -m enchanted.schemas.generate

# The page. Only who changes it needs Node.js (20.19 or newer): the built files are committed.
ui: $(UI)/node_modules/.installed
	cd $(UI) && npm run --silent api && npm run --silent build

ui-check: $(UI)/node_modules/.installed
	cd $(UI) && npm run --silent check && npm run --silent api:check
	cd $(UI) && built=$$(mktemp -d) && npm run --silent build -- --outDir $$built --emptyOutDir --logLevel warn && \
	  { diff -rq $$built ../static || { echo 'serve/static is stale; run `make ui`' >&2; exit 1; }; } && rm -r $$built

$(UI)/node_modules/.installed: $(UI)/package-lock.json
	cd $(UI) && npm ci --loglevel error
	touch $@

down:
	$(BIN)/enchanted down

clean:
	rm -rf $(VENV) $(UI)/node_modules .mypy_cache .ruff_cache
