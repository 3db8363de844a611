# Every command makes the environment first if it is not there. Python >= 3.11, git and make are all it asks for.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
REPORT := build/junit.xml
JOBS := 2
# Two workers with one thread each keep two cores busy; more threads than cores would only get in each other's way.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup --no-loadscope-reorder --junitxml $(REPORT)

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow browser bench docs docs-check export readme clean

help:  ## this list
	@awk -F ':.*## *' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(INSTALLED)  ## train a β-VAE on toy épures in five minutes and show what it draws
	$(BIN)/epuredgm demo

test: $(INSTALLED)  ## everything that CI runs: notebooks, repository checks, processes
	$(PYTEST) tests

test-slow: $(INSTALLED)  ## the same, with the cells and tests flagged slow
	$(PYTEST) --flags slow tests

browser: $(INSTALLED)  ## drive the explorers in JupyterLab, in a Chromium that is installed if need be; pictures in build/browser
	@if .ci/chromium >/dev/null; then OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 0 tests/test_browser.py; fi

bench: $(INSTALLED)  ## measure speed, write bench/results.json
	$(BIN)/python bench/run.py $(BENCH)

docs: $(INSTALLED)  ## build the site into _docs, with Quarto from the path; README.md stays as it is
	@.ci/docs $(BIN)

docs-check: $(INSTALLED)  ## process the notebooks as the documentation does, without Quarto
	$(BIN)/python -m pytest -n 0 tests/test_documentation.py

export: $(INSTALLED)  ## notebooks to package: clean, export, pages made from the code, README
	$(BIN)/nbdev_clean
	$(BIN)/python .ci/widgets.py
	$(BIN)/nbdev_export
	$(BIN)/python .ci/reference.py
	$(BIN)/python .ci/readme.py

readme: $(INSTALLED)  ## README.md from nbs/index.ipynb
	$(BIN)/python .ci/readme.py

clean:  ## remove what building and testing leave; keeps .venv and runs
	rm -rf build dist _docs _proc *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(INSTALLED): settings.ini setup.py .ci/environment
	.ci/environment $(VENV)
	@touch $@
