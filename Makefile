# Every target makes its own environment in .venv from package registries. Nothing else is needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The environment keeps what Python has compiled, or every process would spend seconds on it again.
unexport PYTHONDONTWRITEBYTECODE
# What `make test` installs holds all that the quickstart needs.
QUICKSTART_INSTALLED := $(VENV)/$(if $(wildcard $(VENV)/.installed),.installed,.quickstart)

.PHONY: quickstart recipes prove federation bench gpu benchmark benchmark-small test test-slow test-versions quality style clean help

.DEFAULT_GOAL := help

help: ## these lines
	@grep -hE '^[a-z -]+:.* ## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z -]+):.* ## /\1\t/' | expand -t 28

quickstart: $(QUICKSTART_INSTALLED) ## a whole run on real text with real models, in minutes
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

# Where nothing can be installed, the packages of $(PYTHON) are used if they are enough. (With $(MAKE) in it, the line
# would be run by `make --dry-run` as well.)
gpu: ## measure the library on a GPU, or try the script without one
	if $(PYTHON) tests/gpu_packages.py; \
	then PYTHONPATH="$(CURDIR)$${PYTHONPATH:+:$$PYTHONPATH}" $(PYTHON) tests/gpu/run.py $(ARGS); \
	else make $(VENV)/.installed PYTHON=$(PYTHON) && $(BIN)/python tests/gpu/run.py $(ARGS); fi

benchmark benchmark-small: $(VENV)/.installed ## compare methods (downloads texts)
	$(BIN)/python -m recipes.benchmark --config recipes/configs/benchmark/$(if $(findstring small,$@),small,full).yaml

test-slow: $(VENV)/.installed ## the slow tests
	$(BIN)/python -m pytest -m slow

test-versions: $(VENV)/.installed ## the tests on other versions of Python, and with the oldest dependencies
	$(BIN)/python tests/versions.py

quality: $(VENV)/.installed ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python tests/prose.py
	$(BIN)/mypy

style: $(VENV)/.installed ## mend lint and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The script says what is missing before anything is downloaded.
$(VENV)/.quickstart: pyproject.toml constraints.txt tests/install.py
	VENV=$(VENV) $(PYTHON) tests/install.py quickstart
	touch $@

$(VENV)/.installed: pyproject.toml constraints.txt tests/install.py
	VENV=$(VENV) $(PYTHON) tests/install.py test
	touch $@

clean: ## remove the environment and what targets wrote
	rm -rf $(VENV) build dist *.egg-info quickstart-output plays
