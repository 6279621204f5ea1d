# demo · test · lab · book · reproduce PROFILE=… SEEDS=… · clean
# Each sets up .venv first, if it is missing or requirements.txt has changed.

PYTHON  ?= python3
PROFILE ?= demo
SEEDS   ?= 0
CORES   ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 1)

READY := .venv/.ready
PY    := .venv/bin/python
# A batch that was killed goes on where it stopped: Snakemake's own locks and marks of half-made files are not
# needed, as cdtlib locks its runs and writes every file whole or not at all.
BATCH := $(PY) -m snakemake --cores $(CORES) --nolock --ignore-incomplete --quiet all

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lab book reproduce clean own-results

help:
	@echo "make demo                     the main job on the drawn zoo, notebooks $(MAIN), then the book"
	@echo "make test                     style, unit tests, every notebook at the smoke profile, the book in a browser"
	@echo "make lab                      the notebooks in JupyterLab"
	@echo "make book PROFILE=demo        the book from the results at hand"
	@echo "make reproduce PROFILE=paper  every notebook of a profile, then its book; with several seeds: SEEDS=0,1,2"
	@echo "make clean                    remove the built book and the caches; results stay"

# The paper's main claim; `make reproduce PROFILE=demo` adds the ablations, backbones and comparisons.
MAIN := 01,02,03,04,11,12

demo: own-results $(READY)
	$(BATCH) --config profile=demo notebooks=$(MAIN)
	$(PY) -m cdtlib.cli book --profile demo

reproduce: own-results $(READY)
	$(BATCH) --config profile=$(PROFILE) seeds=$(SEEDS)
	$(PY) -m cdtlib.cli book --profile $(PROFILE)

# The book can only show results that lie in the project; found out after hours of training, that would be a pity.
own-results:
	@test -z "$$CDT_RESULTS" -o "$${CDT_RESULTS%/}" = "$(CURDIR)/results" || { echo "CDT_RESULTS is set, and the book shows the project's own results only: unset it, or leave the book out (snakemake, cdt run)" >&2; exit 2; }

book: $(READY)
	$(PY) -m cdtlib.cli book --profile $(PROFILE)

test: $(READY)
	$(PY) -m ruff check .
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -m "not slow" -n 2
	$(PY) -m pytest -q -m slow -s

lab: $(READY)
	CDT_RESULTS="$${CDT_RESULTS:-$(CURDIR)/results}" $(PY) -m jupyter lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks

clean:
	rm -rf _build .snakemake .pytest_cache .ruff_cache cdtlib.egg-info
	find cdtlib tests notebooks -name __pycache__ -prune -exec rm -rf {} +

$(READY): requirements.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found. Install Python 3.11 or later, or name one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is $$($(PYTHON) --version 2>&1), but Python 3.11 or later is needed. Name one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments. On Debian or Ubuntu: sudo apt install python3-venv" >&2; exit 1; }
	test -x $(PY) || $(PYTHON) -m venv --clear .venv
	$(PY) -m pip install --disable-pip-version-check -r requirements.txt
	$(PY) -m pip install --disable-pip-version-check --no-deps --no-build-isolation -e .
	@mkdir -p .venv/share/jupyter/lab/settings
	@echo '{"@jupyterlab/docmanager-extension:plugin": {"defaultViewers": {"python": "Jupytext Notebook"}}}' > .venv/share/jupyter/lab/settings/overrides.json
	@touch $@
