SHELL := /bin/bash -o pipefail
BIN := $(CURDIR)/.bin
# Builds do not depend on where the repository lies, so that caches are shared.
export GOFLAGS := $(GOFLAGS) -trimpath -buildvcs=false

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
# The race detector needs a C compiler.
RACE := $(if $(shell command -v $${CC:-gcc} 2>/dev/null),-race)
# Tests of the test bed wait most of the time: one package more than there are processors.
PACKAGES := $(shell echo $$(( $$(getconf _NPROCESSORS_ONLN) + 1 )))
# A real node needs root and a container runtime; the tests say what is missing.
NODE := $(addprefix $(BIN)/,kubelet kube-proxy)
CAN_RUN_NODE := $(if $(filter 0,$(shell id -u)),$(shell command -v containerd))

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ See it

.PHONY: demo
demo: build kube ## Real HPAs take a web tier from 1 pod to 3 and its workers from 0 to 10, and back, live
	@$(BIN)/demo

.PHONY: up
up: build kube ## Start the cluster, the AWS stand-in and the adapter, and leave them running
	@$(BIN)/testbed up

.PHONY: down
down: ## Stop what `make up` started
	@if [ -x $(BIN)/testbed ]; then $(BIN)/testbed down; else echo "nothing is up"; fi

##@ Develop

.PHONY: build
build: ## Build the adapter and the test bed's own commands into .bin/
	@echo "building the adapter $(VERSION)"
	@CGO_ENABLED=0 go build -ldflags '-s -w -X main.version=$(VERSION)' -o $(BIN)/adapter ./cmd/adapter
	@echo "building the test bed's commands"
	@cd test && CGO_ENABLED=0 go build -o $(BIN)/ ./cmd/...
	@echo "building the demo's application"
	@cd deploy/demo/orders && CGO_ENABLED=0 go build -ldflags '-s -w' -o $(BIN)/orders .

.PHONY: test
test: build kube $(if $(CAN_RUN_NODE),$(NODE)) $(if $(RACE),$(BIN)/race/adapter) ## Run every test, against the real control plane and real AWS clients
	@$(if $(CAN_RUN_NODE),,echo "NOT TESTED HERE: the chart's pods on a real node, which needs root and containerd, see docs/testbed.md")
	go test $(RACE) ./...
	cd deploy/demo/orders && go test $(RACE) ./...
	@# What these test are programs and manifests beside their module, whose changes Go's cache of results does not see.
	cd test && $(if $(RACE),TIDEGAUGE_ADAPTER=$(BIN)/race/adapter) go test $(RACE) -count=1 -p $(PACKAGES) -timeout 20m ./...
	cd test/browser && go test -count=1 ./...

# The adapter that the tests start, with the race detector in it.
.PHONY: $(BIN)/race/adapter
$(BIN)/race/adapter:
	@echo "building the adapter with the race detector"
	@go build -race -o $@ ./cmd/adapter

.PHONY: bench
bench: build kube ## Measure the adapter on the real control plane; fail if a requirement is missed (minutes)
	@$(BIN)/bench

.PHONY: soak
soak: build kube $(if $(RACE),$(BIN)/race/adapter) ## Run the adapter while faults come and go, and check what must hold (10 minutes; SOAK="--for 3m --seed 7")
	@$(BIN)/soak $(if $(RACE),--adapter $(BIN)/race/adapter) $(SOAK)

.PHONY: graceful
graceful: build kube $(NODE) ## Measure what a graceful stop is worth, on a real node; write the figures into docs/graceful-stop.md (6 minutes; GRACEFUL="--parts")
	@$(BIN)/graceful --page docs/graceful-stop.md $(GRACEFUL)

.PHONY: lint
lint: $(BIN)/golangci-lint ## Run the linters over all modules
	$(BIN)/golangci-lint run ./...
	cd test && $(BIN)/golangci-lint run --config ../.golangci.yml ./...
	cd test/browser && $(BIN)/golangci-lint run --config ../../.golangci.yml ./...
	cd deploy/demo/orders && $(BIN)/golangci-lint run --config ../../../.golangci.yml ./...

.PHONY: generate
generate: $(BIN)/controller-gen $(BIN)/helm ## Write the generated files anew
	@tools/generate.sh $(BIN)/controller-gen
	@go test ./cmd/adapter -run '^TestReference$$' -update
	@cd test && go test ./chart -run '^TestGenerated$$' -update
	@cd test && go test ./deploy -run '^TestGenerated$$' -update

.PHONY: verify
verify: $(BIN)/controller-gen $(BIN)/helm ## Fail when a generated file is stale
	@tools/verify-generated.sh $(BIN)/controller-gen
	@go test ./cmd/adapter -run '^TestReference$$'
	@cd test && go test ./chart -run '^TestGenerated$$'
	@cd test && go test ./deploy -run '^TestGenerated$$'

.PHONY: vuln
vuln: ## Look for known vulnerabilities (asks the public database)
	cd tools && go tool govulncheck -C .. ./...

.PHONY: clean
clean: down ## Remove what was built
	rm -rf .bin .local

$(BIN)/golangci-lint: tools/go.mod tools/go.sum
	@echo "building golangci-lint"
	@cd tools && go build -o $@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

$(BIN)/controller-gen: tools/go.mod tools/go.sum
	@echo "building controller-gen"
	@cd tools && go build -o $@ sigs.k8s.io/controller-tools/cmd/controller-gen

##@ Release

# Where the image is published, and for what. Its tag is the version without the v, which is the chart's appVersion.
IMAGE ?= ghcr.io/tidegauge/tidegauge
PLATFORMS ?= linux/amd64,linux/arm64
# The OCI layout. Beside it are written IMAGE_DIR.tar and an SBOM a platform.
IMAGE_DIR ?= $(BIN)/image
# What of the image is not in the files that it is built from. Of a clean tree the commit says it, so that whoever builds gets the same digest.
REVISION ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || echo 1)
comma := ,
IMAGE_BINARIES := $(foreach p,$(subst $(comma), ,$(PLATFORMS)),$(BIN)/platforms/$(subst /,-,$(p))/adapter)

.PHONY: image
image: $(IMAGE_BINARIES) $(BIN)/packimage ## Build the image into .bin/image, an OCI layout (PLATFORMS=linux/amd64 for one platform only)
	@$(BIN)/packimage build --binaries $(BIN)/platforms --platforms $(PLATFORMS) --name $(IMAGE) --version $(VERSION) \
		--revision $(REVISION) --created $(SOURCE_DATE_EPOCH) --output $(IMAGE_DIR)

.PHONY: image-push
image-push: image ## Push the image of `make image` and its SBOMs (IMAGE=… for another repository)
	@$(BIN)/packimage push --layout $(IMAGE_DIR)

# The oldest processors of each architecture, whatever the builder's own settings.
.PHONY: $(IMAGE_BINARIES)
$(IMAGE_BINARIES): $(BIN)/platforms/%/adapter:
	@echo "building the adapter $(VERSION) for $*"
	@CGO_ENABLED=0 GOOS=$(word 1,$(subst -, ,$*)) GOARCH=$(word 2,$(subst -, ,$*)) GOAMD64=v1 GOARM64=v8.0 GOEXPERIMENT= GOFIPS140=off \
		go build -ldflags '-s -w -X main.version=$(VERSION)' -o $@ ./cmd/adapter

$(BIN)/packimage: $(wildcard tools/image/*.go) tools/image/go.mod tools/image/go.sum
	@echo "building the program that packs the image"
	@cd tools/image && CGO_ENABLED=0 go build -o $@ .
	@touch $@

# So that the adapter is not compiled for a second architecture while tests watch the time.
test: image

lint: lint-image
.PHONY: lint-image
lint-image: $(BIN)/golangci-lint
	cd tools/image && $(BIN)/golangci-lint run --config ../../.golangci.yml ./...

##@ Test bed

KUBE_VERSION := $(shell awk '$$2 == "k8s.io/kubernetes" {print $$3} $$1 == "k8s.io/kubernetes" {print $$2}' test/kube/go.mod)
KUBE_NUMBERS := $(subst ., ,$(patsubst v%,%,$(KUBE_VERSION)))
KUBE_LDFLAGS := -s -w \
	-X k8s.io/component-base/version.gitVersion=$(KUBE_VERSION) \
	-X k8s.io/component-base/version.gitMajor=$(word 1,$(KUBE_NUMBERS)) \
	-X k8s.io/component-base/version.gitMinor=$(word 2,$(KUBE_NUMBERS))
KUBE := $(addprefix $(BIN)/,kube-apiserver kube-controller-manager kube-scheduler kubectl)

.PHONY: kube
kube: $(BIN)/etcd $(BIN)/kwok $(BIN)/prometheus $(BIN)/promtool $(BIN)/helm $(BIN)/helm3 $(KUBE) ## Build the control plane, Prometheus and Helm into .bin/ (30 minutes with a cold cache, once)

.PHONY: node
node: build kube image $(NODE) ## Build what a real node needs besides: kubelet and kube-proxy

$(KUBE) $(NODE): $(BIN)/%: test/kube/go.mod test/kube/go.sum
	@echo "building $* $(KUBE_VERSION)"
	@cd test/kube && CGO_ENABLED=0 go build -ldflags '$(KUBE_LDFLAGS)' -o $@ k8s.io/kubernetes/cmd/$*
	@touch $@

$(BIN)/etcd: test/kube/etcd/go.mod test/kube/etcd/go.sum
	@echo "building etcd"
	@cd test/kube/etcd && CGO_ENABLED=0 go build -ldflags '-s -w' -o $@ go.etcd.io/etcd/server/v3
	@touch $@

$(BIN)/kwok: test/kube/kwok/go.mod test/kube/kwok/go.sum
	@echo "building kwok"
	@cd test/kube/kwok && CGO_ENABLED=0 go build -ldflags '-s -w' -o $@ sigs.k8s.io/kwok/cmd/kwok
	@touch $@

PROMETHEUS_VERSION := $(shell awk '$$1 == "github.com/prometheus/prometheus" {print $$2}' test/kube/prometheus/go.mod)

# Without its user interface, and of the cloud discoveries with that of Kubernetes only.
$(BIN)/prometheus $(BIN)/promtool: test/kube/prometheus/go.mod test/kube/prometheus/go.sum
	@echo "building $(@F) $(PROMETHEUS_VERSION)"
	@cd test/kube/prometheus && CGO_ENABLED=0 go build -tags remove_all_sd,enable_kubernetes_sd -ldflags '-s -w' -o $@ github.com/prometheus/prometheus/cmd/$(@F)
	@touch $@

# The version of a module, as its go.mod in a folder of test/kube has it.
module-version = $(shell awk '$$1 == "$(2)" {print $$2}' test/kube/$(1)/go.mod)

$(BIN)/helm: test/kube/helm/go.mod test/kube/helm/go.sum
	@echo "building helm $(call module-version,helm,helm.sh/helm/v4)"
	@cd test/kube/helm && CGO_ENABLED=0 go build -ldflags '-s -w -X helm.sh/helm/v4/internal/version.version=$(call module-version,helm,helm.sh/helm/v4)' -o $@ helm.sh/helm/v4/cmd/helm
	@touch $@

# Without being told, it takes a cluster that it cannot ask for one of Kubernetes 1.20.
HELM3_MINOR = $(word 2,$(subst ., ,$(call module-version,helm3,k8s.io/client-go)))
HELM3_LDFLAGS = -s -w -X helm.sh/helm/v3/internal/version.version=$(call module-version,helm3,helm.sh/helm/v3) \
	-X helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor=$(HELM3_MINOR) -X helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor=$(HELM3_MINOR)

$(BIN)/helm3: test/kube/helm3/go.mod test/kube/helm3/go.sum
	@echo "building helm $(call module-version,helm3,helm.sh/helm/v3)"
	@cd test/kube/helm3 && CGO_ENABLED=0 go build -ldflags '$(HELM3_LDFLAGS)' -o $@ helm.sh/helm/v3/cmd/helm
	@touch $@
