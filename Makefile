.DEFAULT_GOAL := help
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
RUN := $(UV) run --locked
VERSION ?= latest
REVISION = $(shell git rev-parse HEAD 2>/dev/null)

.PHONY: help demo up test whole check lint fault orders flow audit volumes joins fuzz fhir-examples http alerts traces container images bench documents clean

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

demo: $(UV) ## Start the platform, stream the sample through it, print what comes out (ARGS="--once --json" stops by itself)
	@$(RUN) estuaire demo $(ARGS)

up: $(UV) ## Start the platform and leave it running until Ctrl-C (ARGS=--observe: with Prometheus and a trace store)
	@$(RUN) estuaire up $(ARGS)

test: ## The suite, with a sample of what takes long
whole: ## The whole suite
test: SHORT := -m "not long"
test whole: $(UV)
	@$(RUN) pytest $(SHORT) -n 2 --dist loadfile $(addprefix tests/,unit contract integration) $(ARGS)
	@$(RUN) pytest $(SHORT) $(addprefix tests/,e2e fault container) $(ARGS)

check: lint ## Lint, types, import rules, unit and contract tests; starts nothing
	@$(RUN) pytest -q -n 2 --dist loadfile tests/unit tests/contract $(ARGS)

lint: $(UV) ## Lint, types and import rules alone
	@$(RUN) ruff check
	@$(RUN) ruff format --check
	@$(RUN) mypy
	@$(RUN) lint-imports

fault: $(UV) ## The long fault run: 20,000 events, every service killed five times
	@ESTUAIRE_FAULT_EVENTS=20000 ESTUAIRE_FAULT_KILLS=5 $(RUN) pytest -m fault $(ARGS)

orders: $(UV) ## The long run on order: 200 random orders and batchings of 5,000 records
	@ESTUAIRE_ORDERS=200 ESTUAIRE_ORDER_RECORDS=5000 $(RUN) pytest tests/unit/linkage/test_orders.py $(ARGS)

flow: $(UV) ## The long run on the flow's workers: ten turns of kills, restarts and moves under 60,000 summaries
	@ESTUAIRE_FLOW_SUMMARIES=60000 ESTUAIRE_FLOW_TURNS=10 $(RUN) pytest --timeout 0 tests/integration/test_flow.py $(ARGS)

audit: $(UV) ## Every bit, deletion, exchange and truncation of an audit log of 10,000 entries; each has to be found
	@for part in 0 1; do \
		ESTUAIRE_AUDIT_WHOLE=1 ESTUAIRE_AUDIT_PART=$$part/2 $(RUN) pytest --timeout 0 -p no:cacheprovider \
			tests/unit/audit/test_verification.py $(ARGS) & parts="$$parts $$!"; \
	done; for part in $$parts; do wait $$part || exit 1; done

volumes: $(UV) ## Producers' files of 100,000 records each through the platform, and files of 2 GB
	@ESTUAIRE_VOLUME=100000 ESTUAIRE_VOLUME_BYTES=2000000000 $(RUN) pytest --log-cli-level=WARNING \
		tests/e2e/test_producers.py tests/e2e/test_memory.py $(ARGS)

joins: $(UV) ## 50 permits over 100,000 people: what any two views have in common is what the dry run announces
	@ESTUAIRE_JOIN_PEOPLE=100000 ESTUAIRE_JOIN_PERMITS=50 $(RUN) pytest --timeout 0 --log-cli-level=WARNING \
		tests/e2e/test_joins.py $(ARGS)

fuzz: $(UV) ## Every parser under a coverage-guided fuzzer, ten minutes each (ARGS="--seconds N", TARGETS="fhir ...")
	@for target in $(or $(TARGETS),$$($(RUN) python -m tests.fuzz --list)); do \
		$(RUN) --with atheris python -m tests.fuzz $$target $(ARGS) || exit 1; done

fhir-examples: $(UV) ## All examples of FHIR R4, of ESTUAIRE_FHIR_EXAMPLES: the folder of hl7.fhir.r4.examples, unpacked
	@test -n "$(ESTUAIRE_FHIR_EXAMPLES)" || { echo "say where they are: make fhir-examples ESTUAIRE_FHIR_EXAMPLES=<folder>"; exit 2; }
	@ESTUAIRE_FHIR_EXAMPLES="$(abspath $(ESTUAIRE_FHIR_EXAMPLES))" $(RUN) pytest -q -s tests/unit/ingest/test_fhir_examples.py $(ARGS)

http: $(UV) ## 20,000 generated requests to every service, held to what its OpenAPI document says
	@ESTUAIRE_HTTP_REQUESTS=20000 $(RUN) pytest --log-cli-level=WARNING tests/e2e/test_openapi.py $(ARGS)

alerts: $(UV) ## Every alert rule: fired by its cause on a live platform, and cleared
	@ESTUAIRE_ALERTS=1 $(RUN) pytest --timeout 0 tests/e2e/test_observing.py -k alert $(ARGS)

traces: $(UV) ## Build the trace store (Jaeger, from its Go module) into the user's cache, once
	@$(RUN) python -m estuaire.observe

container: $(UV) ## The end-to-end suite through containers; needs a Docker engine
	@$(RUN) pytest -m container $(ARGS)

images: ## Build the image of every service, and of the operator's command line; needs a Docker engine (VERSION=latest, ARGS)
	@for service in ingest pseudonym linkage access statistics audit console; do docker build --quiet -f infra/Dockerfile \
		--build-arg SERVICE=$$service --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) \
		-t estuaire-$$service:$(VERSION) $(ARGS) . || exit 1; done
	@docker build --quiet -f infra/Dockerfile --target operator --build-arg VERSION=$(VERSION) \
		--build-arg REVISION=$(REVISION) -t estuaire-operator:$(VERSION) $(ARGS) .

bench: $(UV) ## The benchmarks
	@$(RUN) estuaire bench $(ARGS)

documents: $(UV) ## Write schemas, the AsyncAPI document, Kubernetes' generated manifests and the README's table anew
	@$(RUN) python -m estuaire.documents

clean: ## Remove the state of the platform here
	rm -rf .estuaire

.uv/bin/uv:
	@python3 -m venv .uv && .uv/bin/pip install --quiet 'uv>=0.9'
