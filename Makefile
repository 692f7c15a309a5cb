# Makefile of mooer_tk: `make` lists the targets.
#
# Every target that needs the Python environment makes it first with tools/install.sh, which returns
# at once when nothing changed. Settings, all of them optional:
#   VENV=DIR          the virtual environment                      (default .venv)
#   PYTHON=PROGRAM    the Python 3.11 or 3.12 to make it with      (default: the first that is found)
#   EXTRAS=A,B        extras for `make install`                    (default none)
#   langs="es fr"     languages that the demo translates to English (default es)
#   DEMO_OPTS="..."   options for the demo recipe's run.sh
#   PYTEST_OPTS="..." options for pytest, BENCH_OPTS="..." options for benchmarks.run

VENV ?= .venv
PYTHON ?=
EXTRAS ?=
DEMO_OPTS ?=
langs ?=
PYTEST_OPTS ?=
BENCH_OPTS ?=

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help install demo test test-all lint format bench clean distclean

BIN := $(abspath $(VENV))/bin
INSTALL := tools/install.sh --venv "$(VENV)" $(if $(PYTHON),--python "$(PYTHON)")
# What path.sh and the shell tools find first.
WITH_VENV := VIRTUAL_ENV="$(abspath $(VENV))" PATH="$(BIN):$$PATH"

# Files in git and new ones that git does not ignore; without git, what find sees.
SHELL_FILES := { git ls-files --cached --others --exclude-standard '*.sh' .ci/run 2>/dev/null \
	|| find . -name .venv -prune -o \( -name '*.sh' -o -path ./.ci/run \) -print; } | sort -u

# What recipes have made and git ignores, NUL-separated; links are named without following them.
RECIPE_OUTPUT := { git ls-files -z --others --ignored --exclude-standard --directory \
	| sed -z 's,/$$,,' | grep -zE '^(egs/[^/]+/[^/]+/)?(data|dump|exp|downloads)(/|$$)' || true; }

help: ## list the targets
	@echo 'usage: make TARGET [VENV=.venv] [PYTHON=python3.11]'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)$$/  \1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{ printf "%-12s %s\n", $$1, $$2 }'

install: ## make the environment in .venv (EXTRAS=dev,label,deepspeed,espnet,corpora)
	@$(INSTALL) $(if $(EXTRAS),--extras "$(EXTRAS)")

demo: ## install, then run the small recipe egs/asterisk/mooer from data to scores (DEMO_OPTS="...")
	@begin=$$SECONDS; \
	$(INSTALL) --extras label; \
	(cd egs/asterisk/mooer && $(WITH_VENV) ./run.sh $(if $(langs),--ast-langs "$(langs)") $(DEMO_OPTS)); \
	echo "make demo: done in $$((SECONDS - begin)) s. The streaming recognisers with experts are next: cd egs/asterisk/u2pp_moe && ./run.sh"

test: ## install with dev and label, run the tests that take less than a minute each
	@$(INSTALL) --extras dev,label
	@$(WITH_VENV) python -m pytest -m "not slow" --durations=10 $(PYTEST_OPTS)

test-all: ## the same with the slow tests
	@$(INSTALL) --extras dev,label
	@$(WITH_VENV) python -m pytest --durations=10 $(PYTEST_OPTS)

lint: ## ruff, bash -n and shellcheck over all Python and shell files
	@$(INSTALL) --extras dev
	@$(WITH_VENV) ruff check .
	@$(WITH_VENV) ruff format --check .
	@$(SHELL_FILES) | while IFS= read -r file; do bash -n "$$file"; done
	@$(SHELL_FILES) | tr '\n' '\0' | $(WITH_VENV) xargs -0 shellcheck --external-sources --source-path=SCRIPTDIR --source-path=. --exclude=SC1091
	@echo "make lint: $$($(SHELL_FILES) | wc -l) shell files and all Python files are clean"

format: ## rewrite the Python files the way that lint wants them
	@$(INSTALL) --extras dev
	@$(WITH_VENV) ruff check --fix .
	@$(WITH_VENV) ruff format .

bench: ## prepare the demo recipe if need be, measure, and rewrite BENCHMARKS.md (BENCH_OPTS="--only loading")
	@$(INSTALL) --extras label
	@$(WITH_VENV) python -m benchmarks.run $(BENCH_OPTS)

clean: ## remove the environment and caches; data, exp and downloads stay
	@if [ -f "$(VENV)/pyvenv.cfg" ]; then rm -rf "$(VENV)"; fi
	@rm -rf build dist ./*.egg-info .pytest_cache .ruff_cache
	@find . -path ./.git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo 'make clean: removed the environment and caches; data, exp and downloads are untouched'

distclean: ## list what clean and the recipes' data, dump, exp and downloads hold, ask, and remove it
	@git rev-parse --is-inside-work-tree >/dev/null 2>&1 || { \
		echo 'make distclean: not a git checkout, so it is not known what is yours; nothing was removed' >&2; exit 1; }
	@echo 'make distclean would remove the environment and caches ($(VENV), build, dist, *.egg-info) and:'
	@$(RECIPE_OUTPUT) | tr '\0' '\n' | sed 's/^/  /'
	@read -r -p 'Type yes to remove all of it: ' answer || true; \
	if [ "$${answer:-}" != yes ]; then echo 'make distclean: nothing was removed'; exit 1; fi; \
	$(RECIPE_OUTPUT) | xargs -0 -r rm -rf --; \
	$(MAKE) --no-print-directory clean
