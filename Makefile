# make install | demo [MODALITY=saxs1d|saxs2d|cdi|holography|ptychography|reflectivity|gisaxs|gisaxs2d] | test [SLOW=1] | test-slow | check | bench | clean
PYTHON ?= python3
MODALITY ?= saxs1d
SLOW ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo test test-slow check bench clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[test,dev,gui]'
	# pip would compile with one process only; templates among the packages are no Python
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	touch $(STAMP)

demo: install
	$(BIN)/nfphasing demo --output demo-results --modality $(MODALITY)

# A third of the tests' time is waiting, so there are twice as many processes as two cores. Tests start many programs,
# none of which compiles this package again, whatever the machine's own setting is.
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder

test: install
	$(PYTEST) $(if $(SLOW),,-m 'not slow')

test-slow: install
	$(PYTEST) -m slow

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install
	$(BIN)/python -m tests.benchmarks --output bench-results

clean:
	rm -rf $(VENV) build dist *.egg-info demo-results bench-results
