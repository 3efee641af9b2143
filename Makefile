# Each command does everything, set-up included: `make demo`, `make airflow`, `make test`; `make install` is the set-up alone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
AIRFLOW_READY := $(VENV)/.installed-airflow

.PHONY: install demo airflow test test-quick test-long lint bench evaluate clean

demo: $(READY)
	@$(BIN)/lurm demo --directory demo

install: $(READY)

airflow: $(AIRFLOW_READY) java
	@$(BIN)/python docker/standalone.py

# Side by side, more than there are cores: much of the time is spent waiting for programs to start. A file's tests stay together, for they
# share what is slow to make.
SIDE_BY_SIDE := -n 4 --dist loadfile --no-loadscope-reorder

test: $(AIRFLOW_READY) java
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not long"

# A real cluster whose workers are killed, kill -9 in every stage, trainings whose processes are killed.
test-long: $(AIRFLOW_READY) java
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long

test-quick: $(AIRFLOW_READY) java
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not slow and not long"

lint: $(READY)
	@$(BIN)/ruff check . && $(BIN)/lint-imports --config setup.cfg

bench: $(READY) java
	@$(BIN)/python benchmarks/all.py

# The tables of docs/evaluation.md, one data set after the other; hours, and after a kill the same command goes on. DATA holds the data sets.
DATA ?= data
EVALUATIONS := amazon_purchases online_retail git_commits
evaluate: $(READY)
	@for name in $(EVALUATIONS); do \
	  $(BIN)/lurm evaluate --config evaluate_$$name --data $(DATA) --directory evaluation/$$name || exit $$?; done

# Spark starts sooner from an archive of its classes; without one, where it cannot be made, as ever.
CLASSES := $(VENV)/spark-classes.jsa

.PHONY: java
java: $(READY)
	@$(BIN)/python -c "from spark_jobs.session import check_java; from lurm.errors import LurmError; import sys; \
	exec('try:\n check_java()\nexcept LurmError as error:\n sys.exit(f\"lurm: {error}\")')"
	@test $(CLASSES) -nt $(READY) || { echo "lurm: archiving Spark's classes (a minute, once)"; $(BIN)/python -m spark_jobs.class_archive || true; }

# Pinned versions, exactly: requirements.txt is the complete list, setup.cfg names what lurm itself imports.
$(READY): requirements.txt setup.cfg pyproject.toml
	@$(PYTHON) -c "import sys; sys.exit(0 if sys.version_info >= (3, 11) else 'lurm: Expected Python 3.11 or later, found %d.%d; install it and run make PYTHON=python3.11.' % sys.version_info[:2])"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "lurm: installing pinned versions into $(VENV) (a minute or two)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# The scheduler, in the same environment; demo and the stages need none of it.
$(AIRFLOW_READY): requirements-airflow.txt $(READY)
	@echo "lurm: installing pinned versions of Airflow into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement requirements-airflow.txt
	@touch $@

clean:
	rm -rf demo evaluation .airflow $(VENV) build *.egg-info
