# Python 3.11 gets the lowest supported versions, 3.12 and newer the newest: the two ends that are tested.
PYTHON ?= python3
VENV ?= .venv
PYTHON_VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
LOCK := requirements/$(if $(filter 3.11,$(PYTHON_VERSION)),py311-lowest,newest).txt
STAMP := $(VENV)/installed-$(PYTHON_VERSION)
UV_COMPILE := uv pip compile setup.py --extra test --upgrade --no-annotate --no-emit-index-url \
	--no-emit-find-links --custom-compile-command "make lock" --quiet

.PHONY: help venv demo lint quick test test-slow smoke smoke-here test-all lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s%s\n", $$1, $$2 }' Makefile

venv: $(STAMP)  ## make .venv with pinned CPU dependencies (another Python: make venv PYTHON=python3.12)

$(STAMP): setup.py $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "ddaepp_jax needs Python 3.11 or newer: make PYTHON=/path/to/python $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c $(LOCK) -e '.[test]'
	@touch $@

demo: venv  ## train on digits, draw samples, probe, report: a first run on a CPU
	$(VENV)/bin/python -m ddaepp_jax.main --config=configs/unet_digits.py --workdir=runs/digits
	$(VENV)/bin/python -m ddaepp_jax.sample --workdir=runs/digits --out=runs/digits/samples/first
	$(VENV)/bin/python -m ddaepp_jax.linear_probe --workdir=runs/digits
	$(VENV)/bin/python -m ddaepp_jax.report --workdir=runs/digits
	@echo
	@echo "Look at   runs/digits/samples/first.png, and at runs/digits/report.html in a browser"
	@echo "Next      . $(VENV)/bin/activate"
	@echo "          python -m ddaepp_jax.sample --workdir=runs/digits --seed=1 --sampler=ddim"
	@echo "          python -m ddaepp_jax.main --config=configs/uvit_cifar.py:small --workdir=runs/cifar   # downloads CIFAR-10"

lint: venv  ## ruff: rules and layout
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check --quiet .

# The tests of tests/parallel need eight devices, which a process has from its start: a pytest of their own.
PYTEST := $(VENV)/bin/python -m pytest -q -n 2 --dist worksteal $(if $(CI),--durations=20)
quick: venv
	$(PYTEST) -m "not slow" tests/unit tests/numerics tests/system tests/process
	$(PYTEST) -m "not slow" tests/parallel

test: lint quick  ## lint and the quick tests

test-slow: venv smoke  ## the slow tests, and a few under a second Python where there is one
	$(PYTEST) -m slow tests/numerics tests/system tests/process
	$(PYTEST) -m slow tests/parallel

SECOND = $(shell for version in $(if $(filter 3.11,$(PYTHON_VERSION)),3.12 3.13,3.11); do \
	for python in python$$version "$${PYENV_ROOT:-$$HOME/.pyenv}"/versions/$$version*/bin/python; do \
		"$$python" --version >/dev/null 2>&1 && echo "$$python" && exit; done; done)  # a pyenv shim can be there and not run

smoke:  ## a few tests of each kind under a second Python, and so with the other end of the tested versions
	$(if $(SECOND),$(MAKE) smoke-here VENV=.venv-second PYTHON=$(SECOND),@echo "second Python: none found, skipped")

smoke-here: venv
	$(PYTEST) -m smoke tests/unit tests/numerics tests/system tests/process

test-all: test test-slow  ## all of it, and the quick tests once more under a second Python
	$(if $(SECOND),$(MAKE) quick VENV=.venv-second PYTHON=$(SECOND),@echo "second Python: none found, skipped")

lock:  ## compile the constraint files anew (needs uv and Python 3.11 and 3.12)
	$(UV_COMPILE) --python-version 3.11 --resolution lowest-direct -o requirements/py311-lowest.txt
	$(UV_COMPILE) --python-version 3.12 -o requirements/newest.txt

clean:  ## remove everything made here except runs/
	rm -rf .venv .venv-second build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
