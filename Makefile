# Two commands on a fresh machine (Python 3.11+, git, make, a package index):
#
#   make ablation     install everything, run the main job on the embedded data set
#   make test         install everything, run every test
#
# More parameters: make ablation ARGS="-p modulation rfc -p seeds 0,1,2" NAME=rfc

PYTHON ?= python3
NAME   ?= ablation
ARGS   ?=

# uv from the machine if it has a working one, else a private copy under .cache.
UV := $(shell uv --version >/dev/null 2>&1 && command -v uv || echo .cache/uv/bin/uv)
export UV

# Slow links: the largest wheels have some hundred megabytes.
export UV_HTTP_TIMEOUT ?= 300

# uv does not read pip's settings. Where pip was told of another index or of certificates, so is uv.
ifeq ($(UV_DEFAULT_INDEX)$(UV_INDEX_URL),)
  INDEX := $(or $(PIP_INDEX_URL),$(shell $(PYTHON) -m pip config get global.index-url 2>/dev/null))
  ifneq ($(INDEX),)
    export UV_DEFAULT_INDEX := $(INDEX)
  endif
endif
ifeq ($(SSL_CERT_FILE),)
  ifneq ($(PIP_CERT),)
    export SSL_CERT_FILE := $(PIP_CERT)
  endif
endif

.PHONY: ablation test fast install browser constraints clean help
.DEFAULT_GOAL := help

help:
	@sed -n '1,6s/^# \{0,1\}//p' Makefile

ablation: install
	@mkdir -p runs
	FUSIONKIT_HOME_CHECK="$(CURDIR)/fusionkit" $(UV) run papermill notebooks/ablation.ipynb \
	  runs/$(NAME).ipynb -p modulation film $(ARGS) --start-timeout 300 \
	  || { echo "Stopped, see above. What ran: runs/$(NAME).ipynb; repeating resumes." >&2; exit 1; }
	@echo
	@$(UV) run python .ci/last_run.py runs/$(NAME).ipynb $(ARGS)

test: install
	$(UV) run pytest $(ARGS)

fast: install
	$(UV) run pytest -m "not notebook and not slow" $(ARGS)

install: $(UV)
	@$(UV) sync

# For the tests in a browser; without one they are skipped.
browser:
	@command -v chromium >/dev/null || { apt-get update -qq && apt-get install -qqy chromium; }

constraints: $(UV)
	$(PYTHON) .ci/constraints.py
	$(UV) lock

clean:
	rm -rf .venv uv.lock .pytest_cache .ruff_cache

.cache/uv/bin/uv:
	@echo "uv is not on this machine: putting it into .cache/uv (nothing else is changed)"
	@mkdir -p .cache
	@{ $(PYTHON) -m venv .cache/uv >/dev/null 2>&1 && .cache/uv/bin/python -m pip install --quiet uv; } \
	  || $(PYTHON) -m pip install --quiet --target .cache/uv uv \
	  || { echo "Neither venv nor pip works here. Install uv by hand, then repeat." >&2; exit 1; }
