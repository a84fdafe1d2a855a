# make book    the environment, every chapter, the book       make test    lint, types, tests
PYTHON ?= python3
VENV ?= .venv
PROFILE ?= quick
CORES ?= $(shell nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
THREADS ?= 1

PY := $(VENV)/bin/python
UV := $(PY) -m uv
READY := $(VENV)/.ready
LOWEST := build/lowest

.DEFAULT_GOAL := help
.PHONY: help env book reproduce test coverage browser colab check-chapter sync readme lock test-lowest wheel artifact links clean
.DELETE_ON_ERROR:

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:.*## /\t/' | expand -t 14
	@echo 'Variables: PROFILE=$(PROFILE) CORES=$(CORES) THREADS=$(THREADS) PYTHON=$(PYTHON) VENV=$(VENV)'

env: $(READY)  ## the environment alone (.venv)

book: $(READY)  ## run the chapters that changed and build the HTML book; PROFILE=smoke|quick|photos|paper
	@$(PY) -m pipeline.build --profile $(PROFILE) --cores $(CORES) --threads $(THREADS)

reproduce: $(READY)  ## run a chapter's experiments again and compare; CHAPTER=02_center_loss PROFILE=quick ONLY=lambda/0.01/0
	@$(PY) -m fgvc_study reproduce $(CHAPTER) --profile $(PROFILE) --only "$(ONLY)"

test: $(READY)  ## ruff, mypy, notebooks in step with their sources, pytest
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	$(PY) -m pipeline.sync --check
	$(PY) -m pytest

coverage: $(READY)  ## pytest with the lines and branches of both packages that it reaches; fails below 95 %
	$(PY) -m pytest --cov=fgvc_lib --cov=fgvc_study --cov-branch --cov-report=term-missing:skip-covered --cov-fail-under=95

browser: $(READY)  ## drive a browser over the built book
	FGVC_BOOK=build/$(PROFILE)/html $(PY) -m pytest -rs tests/browser

colab: $(READY)  ## run every chapter as Google Colab would: empty folder, library from a wheel, smoke profile
	$(PY) -m pytest -m colab tests/installed

check-chapter: $(READY)  ## what a chapter still lacks; CHAPTER=02_center_loss, all without
	@$(PY) -m pipeline.checklist $(CHAPTER)

sync: $(READY)  ## make notebooks/*.ipynb from the .py beside them
	@$(PY) -m pipeline.sync

readme: $(READY)  ## draw the README's figure and table of results from the committed records
	@$(PY) -m pipeline.readme

lock: $(READY)  ## renew requirements.lock from pyproject.toml (UPGRADE=1 for the newest versions)
	$(UV) pip compile pyproject.toml --all-extras --universal --no-header --no-annotate --quiet \
		$(if $(UPGRADE),--upgrade) --output-file requirements.lock

test-lowest: $(READY)  ## pytest with the lowest versions that pyproject.toml allows
	mkdir -p $(LOWEST)
	$(UV) pip compile pyproject.toml --all-extras --no-header --no-annotate --quiet \
		--resolution lowest-direct --python $(PY) --output-file $(LOWEST)/requirements.txt
	$(UV) venv --quiet --clear --python $(PY) $(LOWEST)/venv
	$(UV) pip install --quiet --python $(LOWEST)/venv/bin/python -r $(LOWEST)/requirements.txt
	$(UV) pip install --quiet --python $(LOWEST)/venv/bin/python --no-deps --editable .
	$(LOWEST)/venv/bin/python -m pytest -W ignore::DeprecationWarning  # of old packages beside newer ones

wheel: $(READY)  ## the library with the committed records as dist/*.whl, and its source archive
	$(UV) build --quiet --no-build-isolation --python $(PY) --out-dir dist

artifact: $(READY)  ## the built book as one archive in dist/, with checksum and manifest
	@$(PY) -m pipeline.artifact --profile $(PROFILE)

links:  ## follow every link of a published site; SITE=https://…/
	@$(PYTHON) pipeline/links.py "$(SITE)"

clean:  ## remove everything that was built, records of quick runs included; the environment stays
	rm -rf build dist

# Done once, and again when the lock or pyproject.toml changes; what was interrupted half-way is repaired.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else \
		"Python 3.11 or newer is needed and $(PYTHON) is %d.%d: make PYTHON=python3.12 ..." % v[:2])'
	@$(PY) -m pip --version >/dev/null 2>&1 || $(UV) --version >/dev/null 2>&1 || test -d $(VENV)/conda-meta \
		|| $(PYTHON) -m venv --clear $(VENV)
	@echo 'installing the packages of requirements.lock into $(VENV) (about 6 GB with CUDA)'
	@$(UV) --version >/dev/null 2>&1 || $(PY) -m pip install --quiet --disable-pip-version-check uv
	@$(UV) pip install --compile-bytecode --python $(PY) --requirements requirements.lock \
		|| $(PY) -m pip install --requirement requirements.lock
	@$(UV) pip install --quiet --python $(PY) --no-deps --editable . \
		|| $(PY) -m pip install --quiet --no-deps --editable .
	@touch $@
