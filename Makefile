# SPDX-FileCopyrightText: Voicefleet contributors
# SPDX-License-Identifier: GPL-3.0-or-later

.DEFAULT_GOAL := help
PYTHON ?= python3
NEWEST_PYTHON ?= $(shell scripts/newest-python)
BIN := .venv/bin
NEWEST := .venv-newest/bin
# Anyone but root is asked for the password to become it.
BECOME := $(if $(filter 0,$(shell id -u)),,--ask-become-pass)
DEMO := -i inventories/demo $(BECOME)

.PHONY: help
help: ## Show what there is to do
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(BIN)/.run ## From this bare machine to speech through Traefik
	$(BIN)/ansible-playbook $(DEMO) site.yml

.PHONY: demo-destroy
demo-destroy: $(BIN)/.run ## Take the demo down again
	$(BIN)/ansible-playbook $(DEMO) destroy.yml

.PHONY: test
test: $(BIN)/.dev $(NEWEST)/.dev ## What checks this project, with real parts (root, about half an hour)
	scripts/test

.PHONY: test-slow
test-slow: $(BIN)/.dev $(NEWEST)/.dev demo ## What takes hours: every step killed, real drivers built, hosts rebooted (root)
	scripts/test-slow

.PHONY: check
check: $(BIN)/.dev ## What can be checked in minutes, without root and without an engine
	scripts/check

.PHONY: bench
bench: $(BIN)/.dev ## Measure, while the demo is up
	scripts/bench

.PHONY: images
images: $(BIN)/.run ## Build the demo's images alone, as tests/integration needs them
	$(BIN)/ansible-playbook $(DEMO) playbooks/images.yml

.PHONY: docs
docs: $(BIN)/.dev ## Write the roles' READMEs from their argument specifications
	$(BIN)/python scripts/role_readme.py

.PHONY: lock
lock: $(BIN)/.dev ## Pin all requirements anew, with hashes
	scripts/lock

.PHONY: clean
clean: ## Remove virtual environments and build output
	rm -rf .venv .venv-newest .work .mypy_cache .ruff_cache .pytest_cache .hypothesis .ansible

$(BIN)/.run: requirements.txt
	scripts/setup .venv $(PYTHON) requirements.txt
	@touch $@

$(BIN)/.dev: requirements-dev.txt
	scripts/setup .venv $(PYTHON) requirements-dev.txt
	@touch $@ $(BIN)/.run

$(NEWEST)/.dev: requirements-dev.txt
	scripts/setup .venv-newest $(NEWEST_PYTHON) requirements-dev.txt
	@touch $@
