# remuda: 'make help' lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help

GO ?= $(shell command -v go || echo /usr/local/go/bin/go)
export PATH := $(dir $(GO)):$(PATH)
VERSION := $(shell git describe --always --dirty 2>/dev/null || echo dev)
SOURCES := $(shell find . -name '*.go' -not -path './.git/*') $(shell find catalog -name '*.yaml') go.mod go.sum

.PHONY: help run build test lint bench clean deps fuzz

help: ## List the targets
	@echo "remuda: an Open Service Broker with warm, reusable container groups"
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'
	@echo "The settings REMUDA_LISTEN, REMUDA_USERNAME, REMUDA_PASSWORD, REMUDA_STATE_DIR, REMUDA_IMAGE_DIR,"
	@echo "REMUDA_DATABASE_URL, REMUDA_DATABASE_URL_FILE and REMUDA_CONFIG are passed through to run and clean."

run: ## Install what is needed, build, and start the broker in the foreground (root)
	@scripts/deps run
	@$(MAKE) --no-print-directory build
	@exec bin/remuda serve

build: bin/remuda ## Build bin/remuda

bin/remuda: $(SOURCES)
	@echo "building bin/remuda (the first time takes a minute)"
	@CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o bin/remuda ./cmd/remuda

test: ## Run all tests with the race detector; container tests only as root
	@scripts/deps test
	@scripts/test

lint: ## Check formatting, vet and staticcheck
	@test -z "$$(gofmt -l . | tee /dev/stderr)" || { echo "run gofmt -w on these"; exit 1; }
	@$(GO) vet ./...
	@$(GO) tool -modfile=tools.mod staticcheck ./...

bench: ## Measure; prints a table and writes bin/bench.json (root)
	@scripts/deps run
	@$(MAKE) --no-print-directory build
	@$(GO) run ./bench -o bin/bench.json

fuzz: ## Fuzz every decoder for 20 seconds each
	@scripts/fuzz 20s

clean: ## Remove everything that the broker with this environment has made, and bin/
	@if [ -x bin/remuda ] && [ "$$(id -u)" = 0 ]; then bin/remuda groups close --all; fi
	@rm -rf bin

deps: ## Install the Debian packages that run and test need (root)
	@scripts/deps test
