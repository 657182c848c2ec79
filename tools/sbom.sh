#!/usr/bin/env bash
# Writes what a Go program is made of, Go's standard library included, as CycloneDX JSON.
#   tools/sbom.sh PROGRAM VERSION FILE
set -euo pipefail
. "$(dirname "$0")/versions.env"
go run "github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@$CYCLONEDX_VERSION" bin -json -std -noserial -notimestamp -version "$2" -output "$3" "$1"
# ocb has the Collector take this repository's module from ../.., which is no name of it.
module=github.com/pulsegrid/pulsegrid
sed -i -e "s|pkg:golang/\.\./\.\.@(devel)|pkg:golang/$module@$2|" -e '/"name": "\.\.\/\.\."/{' -e "s|\.\./\.\.|$module|; n; s|(devel)|$2|" -e '}' "$3"
