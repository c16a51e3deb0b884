SHELL := /bin/bash -o pipefail
BIN := $(CURDIR)/.bin
export GOFLAGS := $(GOFLAGS) -trimpath

##@ Test bed

KUBE_VERSION := $(shell awk '$$2 == "k8s.io/kubernetes" {print $$3} $$1 == "k8s.io/kubernetes" {print $$2}' test/kube/go.mod)
KUBE_MAJOR_MINOR := $(subst ., ,$(patsubst v%,%,$(KUBE_VERSION)))
KUBE_LDFLAGS := -s -w \
	-X k8s.io/component-base/version.gitVersion=$(KUBE_VERSION) \
	-X k8s.io/component-base/version.gitMajor=$(word 1,$(KUBE_MAJOR_MINOR)) \
	-X k8s.io/component-base/version.gitMinor=$(word 2,$(KUBE_MAJOR_MINOR))
KUBE := $(addprefix $(BIN)/,kube-apiserver kube-controller-manager kube-scheduler kubectl)

.PHONY: kube
kube: $(BIN)/etcd $(BIN)/kwok $(KUBE) ## Build the control plane's binaries into .bin/ (20 minutes with a cold cache, once)

$(KUBE): $(BIN)/%: test/kube/go.mod test/kube/go.sum
	@echo "building $* $(KUBE_VERSION)"
	@cd test/kube && CGO_ENABLED=0 go build -ldflags '$(KUBE_LDFLAGS)' -o $@ k8s.io/kubernetes/cmd/$*

$(BIN)/etcd: test/kube/etcd/go.mod test/kube/etcd/go.sum
	@echo "building etcd"
	@cd test/kube/etcd && CGO_ENABLED=0 go build -ldflags '-s -w' -o $@ go.etcd.io/etcd/server/v3

$(BIN)/kwok: test/kube/kwok/go.mod test/kube/kwok/go.sum
	@echo "building kwok"
	@cd test/kube/kwok && CGO_ENABLED=0 go build -ldflags '-s -w' -o $@ sigs.k8s.io/kwok/cmd/kwok
