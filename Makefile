# The environment is .venv. It is made once and updated only when pyproject.toml changes; nothing else needs a network.
#
#   make digits ARGS="--steps 500 --model.hidden 64"    ARGS goes to the recipe, or to pytest
#   make test PYTHON=python3.13                         the interpreter that makes .venv, if there is none yet

VENV = .venv
PYTHON ?=
ARGS =

python = $(VENV)/bin/python
install = $(python) -m pip install -qq --disable-pip-version-check --editable

.PHONY: help digits test test-all test-exhaustive notebooks lint types format docs figures clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' Makefile | \
	    while IFS='|' read -r name does; do printf '  make %-15s %s\n' "$$name" "$$does"; done

digits: $(VENV)/installed ## train the article's top-down VAE on digits; pictures and numbers in runs/top_down_digits
	$(python) experiments/recipes/top_down.py $(ARGS)

test: $(VENV)/installed-tests ## the test-suite without its slow tests
	$(python) -m pytest -n 2 $(ARGS)

test-all: $(VENV)/installed-tests ## the test-suite with its slow tests
	$(python) -m pytest -n 2 --slow $(ARGS)

test-exhaustive: $(VENV)/installed-tests ## all of it, also what repeats slow tests for every row and seed
	$(python) -m pytest -n 2 --exhaustive $(ARGS)

notebooks: $(VENV)/installed-tests ## execute the notebooks and keep their outputs; ARGS="02 07" for some
	$(python) notebooks/execute.py $(ARGS)

lint: $(VENV)/installed-lint ## ruff: rules and format
	$(python) -m ruff check .
	$(python) -m ruff format --check .

types: $(VENV)/installed-tests $(VENV)/installed-lint ## pyrefly: types
	$(python) -m pyrefly check --python-interpreter-path $(python)

format: $(VENV)/installed-lint ## fix what ruff can fix
	$(python) -m ruff check --fix .
	$(python) -m ruff format .

docs: $(VENV)/installed-docs ## the site, in docs/_build/html: warnings are errors, links are followed
	@$(python) -c 'import furo, myst_nb, sphinx' 2>/dev/null || { echo "make docs: furo, myst-nb or sphinx is missing \
	in $(VENV): remove $(VENV)/installed-docs and run make docs with a network once." >&2; exit 1; }
	$(python) -m sphinx -b html -W --keep-going -q docs docs/_build/html
	$(python) docs/check_links.py docs/_build/html

figures: $(VENV)/installed ## draw the figures that take less than ten minutes, in experiments/figures
	$(python) experiments/studies/figures.py $(ARGS)

clean: ## remove environments, builds and caches; runs/ stays
	rm -rf $(VENV) .legs build dist docs/_build .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/installed: pyproject.toml | $(python)
	@echo "Installing hvae_jax into $(VENV) (a minute, once)"
	@$(install) .
	@touch $@

$(VENV)/installed-tests: pyproject.toml | $(python)
	@echo "Installing hvae_jax and what its tests need into $(VENV) (a minute, once)"
	@$(install) '.[tests]'
	@touch $(VENV)/installed $@

$(VENV)/installed-lint: pyproject.toml | $(python)
	@echo "Installing hvae_jax, its linter and its type checker into $(VENV) (a minute, once)"
	@$(install) '.[lint]'
	@touch $(VENV)/installed $@

$(VENV)/installed-docs: pyproject.toml | $(python)
	@echo "Installing hvae_jax and what its site needs into $(VENV) (a minute, once)"
	@$(install) '.[docs]' 2>$(VENV)/pip.log || { echo "make docs needs a network once, to install the extra docs" \
	    "(sphinx, furo, myst-nb, latex2mathml, sphinx-copybutton) into $(VENV); $(VENV)/pip.log has pip's words." >&2; \
	    exit 1; }
	@touch $(VENV)/installed $@

# The first interpreter that runs (a pyenv shim may not), is new enough and can make environments. Python 3.12 and newer
# get a JAX that is nearly twice as fast at convolutions on CPUs as the last one for 3.11.
$(python):
	@for candidate in $(or $(PYTHON),python3.13 python3.12 python3 python3.14 python3.11 python); do \
	    "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 || continue; \
	    echo "Making $(VENV) with $$candidate ($$("$$candidate" -V))"; \
	    "$$candidate" -m venv --clear $(VENV) && exit 0; \
	    rm -rf $(VENV); \
	    echo "$$candidate cannot make environments. On Debian and Ubuntu: apt install python3-venv" >&2; \
	done; \
	echo "hvae_jax needs Python 3.11 or newer with its venv module." >&2; \
	echo "Tried: $(or $(PYTHON),python3 and python3.11 to python3.14)." >&2; \
	echo "Install one, or name it: make $(or $(MAKECMDGOALS),test) PYTHON=/path/to/python3" >&2; \
	exit 1
