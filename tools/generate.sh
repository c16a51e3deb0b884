#!/usr/bin/env bash
# Writes the deep-copy functions of pkg/apis and the CRDs of deploy/crds anew, below
# the working directory.
#
#   tools/generate.sh CONTROLLER_GEN
set -euo pipefail

controller_gen=${1:?path of controller-gen}

find pkg/apis -name 'zz_generated.*.go' -delete
mkdir -p deploy/crds
rm -f deploy/crds/*.yaml
"$controller_gen" object paths=./pkg/apis/... crd output:crd:dir=deploy/crds
# Said, as an update of the CRD of an older adapter would leave its true.
sed -i "s/^  group: .*/&\n  preserveUnknownFields: false/" deploy/crds/*.yaml
