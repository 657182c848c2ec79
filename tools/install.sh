#!/usr/bin/env bash
# Installs a part that PulseGrid runs or is tested against, once, below $PULSEGRID_CACHE (default ~/.cache/pulsegrid), each in
# a folder named by its version. Does nothing where it is there already. Uses the ordinary package clients only.
#   tools/install.sh clickhouse|kafka|iceberg|ocb|telemetrygen|versitygw|golangci-lint|python|peers|clients ...
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/versions.env"
bench=$here/../integration/bench/peers
clients=$here/../integration/clients/testdata
cache=${PULSEGRID_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pulsegrid}
mkdir -p "$cache"

short_sum() { sha256sum "$1" | cut -c1-12; }

# into DIR FUNCTION: runs FUNCTION in a fresh folder and renames it to DIR, so that a broken install is never taken for a whole one.
into() {
  local dir=$cache/$1
  [ -d "$dir" ] && return 0
  echo "installing $1" >&2
  local tmp; tmp=$(mktemp -d "$cache/.installing.XXXXXX")
  if ! (cd "$tmp" && "$2"); then rm -rf "$tmp"; echo "installing $1 failed" >&2; return 1; fi
  mv -T "$tmp" "$dir" 2>/dev/null || rm -rf "$tmp" # another install won the race
}

clickhouse() {
  npm pack --silent "$CHDB_PACKAGE@$CHDB_VERSION" >/dev/null
  local tgz; tgz=$(ls ./*.tgz)
  [ "$(openssl dgst -sha512 -binary "$tgz" | base64 -w0)" = "$CHDB_SHA512" ] || { echo "$CHDB_PACKAGE@$CHDB_VERSION: checksum differs" >&2; return 1; }
  tar -xzf "$tgz" --strip-components=1 package/libchdb.so && rm "$tgz"
}
kafka() {
  cp "$here/kafka/pom.xml" .
  mvn -B -q dependency:copy-dependencies
}
iceberg() {
  cp "$here/iceberg/pom.xml" .
  mvn -B -q dependency:copy-dependencies
}
gotool() { GOBIN=$PWD go install "$1"; } # the Go checksum database verifies these
ocb() { gotool "go.opentelemetry.io/collector/cmd/builder@$COLLECTOR_VERSION"; }
telemetrygen() { gotool "github.com/open-telemetry/opentelemetry-collector-contrib/cmd/telemetrygen@$COLLECTOR_VERSION"; }
versitygw() { gotool "github.com/versity/versitygw/cmd/versitygw@$VERSITYGW_VERSION"; }
golangci_lint() { gotool "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$GOLANGCI_LINT_VERSION"; }
peers() { # the stock Collectors of integration/bench, each by the builder of its time
  GOBIN=$PWD go install "go.opentelemetry.io/collector/cmd/builder@$PEER_GATEWAY_VERSION" && mv builder builder-gateway
  GOBIN=$PWD go install "go.opentelemetry.io/collector/cmd/builder@$COLLECTOR_VERSION" && mv builder builder-aggregator
  local tier
  for tier in gateway aggregator; do
    "./builder-$tier" --config "$bench/$tier-manifest.yaml" >"$tier.log" 2>&1 || { tail -20 "$tier.log" >&2; return 1; }
    mv "out-$tier/peer-$tier" . && rm -rf "out-$tier" "builder-$tier"
  done
}
clients() { # the stock clients of integration/clients but Python's; npm's lock file would name the registry, so versions are pinned in package.json
  mkdir js java
  cp "$clients/js/package.json" js && (cd js && npm install --silent --no-audit --no-fund --no-package-lock)
  cp "$clients/java/pom.xml" java && (cd java && mvn -B -q dependency:copy-dependencies)
  (cd "$clients/go" && go build -o "$OLDPWD/go-client" .)
}
python() { # a venv cannot be moved: build it in place, mark it when it is whole
  local dir=$cache/python-$(short_sum "$here/python/requirements.txt")
  [ -f "$dir/installed" ] && return 0
  echo "installing python packages" >&2
  python3 -m venv --clear "$dir"
  "$dir/bin/pip" install --quiet --disable-pip-version-check -r "$here/python/requirements.txt"
  touch "$dir/installed"
}
# DuckDB's Iceberg extension comes as a package of its own for some versions only, so this DuckDB is beside the one of requirements.txt.
duckdb_iceberg() {
  "$cache/python-$(short_sum "$here/python/requirements.txt")/bin/pip" install --quiet --disable-pip-version-check --target . -r "$here/python/duckdb-iceberg.txt"
}

peers_dir=peers-$(cat "$bench"/*-manifest.yaml | sha256sum | cut -c1-12)
clients_dir=clients-$(cat "$clients"/js/package.json "$clients"/java/pom.xml "$clients"/go/{go.mod,main.go} | sha256sum | cut -c1-12)
if [ "${1:-}" = --dir ]; then # where a part is: only for those whose name nobody can guess
  case "${2:-}" in
    peers) echo "$cache/$peers_dir" ;;
    clients) echo "$cache/$clients_dir" ;;
    *) echo "--dir takes peers or clients" >&2; exit 2 ;;
  esac
  exit
fi

for part in "$@"; do
  case $part in
    clickhouse) into "clickhouse-$CHDB_VERSION" clickhouse ;;
    kafka) into "kafka-$KAFKA_VERSION" kafka ;;
    ocb | telemetrygen) into "$part-$COLLECTOR_VERSION" "$part" ;;
    versitygw) into "versitygw-$VERSITYGW_VERSION" versitygw ;;
    golangci-lint) into "golangci-lint-$GOLANGCI_LINT_VERSION" golangci_lint ;;
    peers) into "$peers_dir" peers ;;
    iceberg) into "iceberg-$(short_sum "$here/iceberg/pom.xml")" iceberg ;;
    python) python && into "duckdb-iceberg-$(short_sum "$here/python/duckdb-iceberg.txt")" duckdb_iceberg ;;
    clients) into "$clients_dir" clients ;;
    *) echo "unknown part $part" >&2; sed -n 4p "$0" >&2; exit 2 ;;
  esac
done
