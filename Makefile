# Every target is one line of what a person or CI types. `make help` lists them.
.DEFAULT_GOAL := help
TESTBED := cargo run --quiet -p quietcore-tests --bin testbed --
E2E := cargo test -p quietcore-tests --features cluster

.PHONY: help up down e2e

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | column -t -s '|'

up: ## start a cluster for interactive use; prints the lines that export KUBECONFIG
	@$(TESTBED) up

down: ## remove the cluster of `make up`
	@$(TESTBED) down

e2e: ## every end-to-end test, on clusters of its own that are gone afterwards
	$(TESTBED) run -- $(E2E) --test testbed
	$(TESTBED) run --nodes 3 -- $(E2E) --test three_nodes
	$(E2E) --test supervisor -- --test-threads=1
