# remuda: 'make help' lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help

GO ?= $(shell command -v go || echo /usr/local/go/bin/go)
export PATH := $(dir $(GO)):$(PATH)
VERSION := $(shell git describe --always --dirty 2>/dev/null || echo dev)
SOURCES := $(shell find . -name '*.go' -not -path './.git/*' -not -path './kube/*') $(shell find catalog -name '*.yaml') go.mod go.sum

.PHONY: help run build test e2e lint generate bench bench-kube clean deps fuzz kube kube-up

help: ## List the targets
	@echo "remuda: an Open Service Broker with warm, reusable container groups"
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'
	@echo "The settings REMUDA_LISTEN, REMUDA_USERNAME, REMUDA_PASSWORD, REMUDA_STATE_DIR, REMUDA_IMAGE_DIR,"
	@echo "REMUDA_DATABASE_URL, REMUDA_DATABASE_URL_FILE and REMUDA_CONFIG are passed through to run and clean."

run: ## Install what is needed, build, and start the broker in the foreground (root)
	@scripts/deps run
	@$(MAKE) --no-print-directory build
	@exec bin/remuda serve

build: bin/remuda ## Build bin/remuda and bin/remuda-agent

bin/remuda: $(SOURCES)
	@echo "building bin/remuda (the first time takes a minute)"
	@CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o bin/ ./cmd/remuda ./cmd/remuda-agent

test: ## Run all tests with the race detector; container tests only as root
	@scripts/deps test
	@scripts/test

e2e: ## Run the tests that need a real Kubernetes, one after the other (root)
	@scripts/deps kube
	@scripts/kube >/dev/null
	@$(GO) test -race -count=1 -tags kube -p 1 -timeout 30m ./e2e/cluster/... ./e2e/kube/... ./provisioner/kubernetes/...
	@$(GO) test -count=1 -tags kube -timeout 30m -run '^TestCluster' ./e2e

kube: ## Build the Kubernetes of the tests, once (root); prints its folder
	@scripts/deps kube
	@scripts/kube

kube-up: ## Run a Kubernetes to develop against, until Ctrl-C (root)
	@scripts/deps kube
	@$(GO) build -o bin/kube-up ./e2e/cluster/up
	@exec bin/kube-up

generate: ## Write again what is made from the types of the custom resource
	@scripts/generate

lint: ## Check formatting, generated files, vet and staticcheck
	@test -z "$$(gofmt -l . | tee /dev/stderr)" || { echo "run gofmt -w on these"; exit 1; }
	@scripts/generate --check
	@$(GO) vet -tags kube ./...
	@$(GO) tool -modfile=tools.mod staticcheck -tags kube ./...

bench: ## Measure; prints a table and writes bin/bench.json (root)
	@scripts/deps run
	@$(MAKE) --no-print-directory build
	@$(GO) run ./bench -o bin/bench.json

bench-kube: ## Measure on a real Kubernetes, and claims on PostgreSQL (root)
	@scripts/deps kube
	@scripts/kube >/dev/null
	@$(GO) test -count=1 -tags kube -timeout 30m -run '^$$' -bench Cluster -benchtime 1x ./e2e | tee bin/bench-kube.txt
	@$(MAKE) --no-print-directory build
	@$(GO) run ./bench -run postgres -o bin/bench-postgres.json

fuzz: ## Fuzz every decoder for 20 seconds each
	@scripts/fuzz 20s

clean: ## Remove everything that the broker with this environment has made, and bin/
	@if [ -x bin/remuda ] && [ "$$(id -u)" = 0 ]; then bin/remuda groups close --all; fi
	@rm -rf bin

deps: ## Install the Debian packages that run and test need (root)
	@scripts/deps test
