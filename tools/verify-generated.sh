#!/usr/bin/env bash
# Fails when a generated file is not what generate.sh writes, and leaves the working
# tree as it is: it generates in a copy. Run it in the repository's root.
#
#   tools/verify-generated.sh CONTROLLER_GEN
set -euo pipefail

controller_gen=$(realpath "${1:?path of controller-gen}")
generate=$(realpath "$(dirname "$0")/generate.sh")
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT

tar -cf - go.mod go.sum pkg/apis deploy/crds | tar -xf - -C "$copy"
(cd "$copy" && "$generate" "$controller_gen")

stale=0
for folder in pkg/apis deploy/crds; do
	diff -ru "$folder" "$copy/$folder" || stale=1
done
if ((stale)); then
	echo "generated files are stale: run make generate" >&2
	exit 1
fi
