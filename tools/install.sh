#!/usr/bin/env bash
# Installs a part that PulseGrid runs or is tested against, once, below $PULSEGRID_CACHE (default ~/.cache/pulsegrid), each in
# a folder named by its version. Does nothing where it is there already. Uses the ordinary package clients only. What they bring must have
# the checksums that are listed here (`make lock` writes the lists) or, for Go modules, in Go's checksum database; else nothing is installed.
#   tools/install.sh clickhouse|kafka|jmx_exporter|iceberg|ocb|telemetrygen|versitygw|golangci-lint|promtool|amtool|prometheus|alertmanager|node_exporter|python|deploy|checkov|peers|clients|temporal ...
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/versions.env"
. "$here/step.sh"
bench=$here/../integration/bench/peers
clients=$here/../integration/clients/testdata
devserver=$here/../orchestration/devserver
cache=${PULSEGRID_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pulsegrid}
mkdir -p "$cache"

short_sum() { sha256sum "$1" | cut -c1-12; }

# into DIR FUNCTION WHAT USUALLY: runs a function in a fresh folder and renames it to DIR, so that a broken install is never taken for a whole one. WHAT it brings and how long
# that USUALLY takes, on two cores with nothing built before, is said.
into() {
  local dir=$cache/$1
  [ -d "$dir" ] && return 0
  local tmp status; tmp=$(mktemp -d "$cache/.installing.XXXXXX")
  set +e # not `if`: within its condition no command of the function would end it
  (set -e; cd "$tmp"; step "installing $1: $3" "$4" "$2"); status=$?
  set -e
  if [ $status != 0 ]; then rm -rf "$tmp"; return 1; fi
  mv -T "$tmp" "$dir" 2>/dev/null || rm -rf "$tmp" # another install won the race
}

clickhouse() {
  npm pack --silent "$CHDB_PACKAGE@$CHDB_VERSION" >/dev/null
  local tgz; tgz=$(ls ./*.tgz)
  [ "$(openssl dgst -sha512 -binary "$tgz" | base64 -w0)" = "$CHDB_SHA512" ] || { echo "$CHDB_PACKAGE@$CHDB_VERSION: checksum differs" >&2; return 1; }
  tar -xzf "$tgz" --strip-components=1 package/libchdb.so && rm "$tgz"
}
# jars DIR: the jars that DIR/pom.xml asks for, into libs, which then holds what DIR/jars.sha256 lists and nothing else.
jars() {
  cp "$1/pom.xml" .
  mvn -B -q --strict-checksums dependency:copy-dependencies
  (cd libs && sha256sum -- *) >came.sha256
  diff "$1/jars.sha256" came.sha256 >&2 || { echo "these jars (>) are not those of ${1#"$here/"}/jars.sha256 (<): checksums differ" >&2; return 1; }
}
kafka() { jars "$here/kafka"; }
jmx_exporter() { jars "$here/jmx_exporter"; }
iceberg() { jars "$here/iceberg"; }
gotool() { GOBIN=$PWD go install "$@"; } # the Go checksum database verifies these
ocb() { gotool "go.opentelemetry.io/collector/cmd/builder@$COLLECTOR_VERSION"; }
telemetrygen() { gotool "github.com/open-telemetry/opentelemetry-collector-contrib/cmd/telemetrygen@$COLLECTOR_VERSION"; }
versitygw() { gotool "github.com/versity/versitygw/cmd/versitygw@$VERSITYGW_VERSION"; }
golangci_lint() { gotool "github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$GOLANGCI_LINT_VERSION"; }
promtool() { gotool -tags remove_all_sd "github.com/prometheus/prometheus/cmd/promtool@$PROMETHEUS_VERSION"; } # it needs no service discovery, nor the clients of every cloud
amtool() { gotool "github.com/prometheus/alertmanager/cmd/amtool@$ALERTMANAGER_VERSION"; }
# The servers, as the rules meet them: of the same modules and versions as promtool and amtool.
prometheus() { gotool -tags remove_all_sd "github.com/prometheus/prometheus/cmd/prometheus@$PROMETHEUS_VERSION"; }
alertmanager() { # embeds a web page that its module does not bring, so it is built from a copy with an empty one; its API needs none
  local module; module=$(go mod download -json "github.com/prometheus/alertmanager@$ALERTMANAGER_VERSION" | sed -n 's/^.*"Dir": "\(.*\)".*$/\1/p')
  cp -r "$module" source && chmod -R u+w source && mkdir -p source/ui/app/dist && touch source/ui/app/dist/index.html
  (cd source; go build -trimpath -o ../alertmanager ./cmd/alertmanager)
  rm -rf source
}
node_exporter() { gotool "github.com/prometheus/node_exporter@$NODE_EXPORTER_VERSION"; }
peers() { # the stock Collectors of integration/bench, each by the builder of its time
  GOBIN=$PWD go install "go.opentelemetry.io/collector/cmd/builder@$PEER_GATEWAY_VERSION" && mv builder builder-gateway
  GOBIN=$PWD go install "go.opentelemetry.io/collector/cmd/builder@$COLLECTOR_VERSION" && mv builder builder-aggregator
  local tier
  for tier in gateway aggregator; do
    "./builder-$tier" --config "$bench/$tier-manifest.yaml" >"$tier.log" 2>&1 || { tail -20 "$tier.log" >&2; return 1; }
    mv "out-$tier/peer-$tier" . && rm -rf "out-$tier" "builder-$tier"
  done
}
clients() { # the stock clients of integration/clients but Python's
  mkdir js java
  cp "$clients"/js/package{,-lock}.json js
  (cd js; npm ci --loglevel error --no-audit --no-fund --ignore-scripts) # package-lock.json has the checksums
  (cd java; jars "$clients/java")
  (cd "$clients/go"; go build -o "$OLDPWD/go-client" .)
}
# A Temporal server for this machine and for tests, a module of its own: 1,800 packages, minutes of CPU where none of them has been built before.
temporal() { (cd "$devserver" && go build -trimpath -ldflags '-s -w' -o "$OLDPWD/devserver" .); }
# environment DIR LIST WHAT USUALLY: a venv with the packages of a list. It cannot be moved: built in place, marked when it is whole.
environment() { [ -f "$cache/$1/installed" ] || step "installing $1: $3" "$4" packages "$1" "$2"; }
packages() {
  python3 -m venv --clear "$cache/$1"
  pip "$cache/$1/bin/python" "$2"
  touch "$cache/$1/installed"
}
pip() { # PYTHON LIST ...: ready-made packages only, as whoever builds one fetches what no list names
  "$1" -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r "$here/python/$2" "${@:3}"
}
# DuckDB's Iceberg extension comes as a package of its own for some versions only, so this DuckDB is beside the one of requirements.txt.
duckdb_iceberg() { pip "$cache/$venv/bin/python" duckdb-iceberg.txt --target .; }

venv=python-$(short_sum "$here/python/requirements.txt")
deploy_dir=deploy-$(short_sum "$here/python/deploy.txt")
checkov_dir=checkov-$(short_sum "$here/python/checkov.txt") # its pins are not those of the others
peers_dir=peers-$(cat "$bench"/*-manifest.yaml | sha256sum | cut -c1-12)
clients_dir=clients-$(cat "$clients"/js/package-lock.json "$clients"/java/jars.sha256 "$clients"/go/{go.mod,main.go} | sha256sum | cut -c1-12)
temporal_dir=temporal-$(cat "$devserver"/{go.mod,go.sum,main.go} | sha256sum | cut -c1-12)
if [ "${1:-}" = --dir ]; then # where a part is: only for those whose name nobody can guess
  case "${2:-}" in
    peers) echo "$cache/$peers_dir" ;;
    clients) echo "$cache/$clients_dir" ;;
    temporal) echo "$cache/$temporal_dir" ;;
    deploy) echo "$cache/$deploy_dir" ;;
    checkov) echo "$cache/$checkov_dir" ;;
    *) echo "--dir takes peers, clients, temporal, deploy or checkov" >&2; exit 2 ;;
  esac
  exit
fi

for part in "$@"; do
  case $part in
    clickhouse) into "clickhouse-$CHDB_VERSION" clickhouse "ClickHouse's engine from npm, 540 MiB unpacked" "15 s" ;;
    kafka) into "kafka-$KAFKA_VERSION" kafka "Kafka's server, by Maven" "15 s" ;;
    ocb) into "ocb-$COLLECTOR_VERSION" ocb "the Collector's builder" "30 s" ;;
    telemetrygen) into "telemetrygen-$COLLECTOR_VERSION" telemetrygen "OpenTelemetry's own sender" "30 s" ;;
    versitygw) into "versitygw-$VERSITYGW_VERSION" versitygw "an S3 server" "1 min" ;;
    golangci-lint) into "golangci-lint-$GOLANGCI_LINT_VERSION" golangci_lint "the linters" "3 min" ;;
    promtool) into "promtool-$PROMETHEUS_VERSION" promtool "Prometheus' check of rules" "2 min" ;;
    prometheus) into "prometheus-$PROMETHEUS_VERSION" prometheus "Prometheus" "2 min" ;;
    amtool) into "amtool-$ALERTMANAGER_VERSION" amtool "Alertmanager's check of its configuration" "2 min" ;;
    alertmanager) into "alertmanager-$ALERTMANAGER_VERSION" alertmanager "Alertmanager" "2 min" ;;
    node_exporter) into "node_exporter-$NODE_EXPORTER_VERSION" node_exporter "Prometheus' exporter of a host" "30 s" ;;
    peers) into "$peers_dir" peers "the stock Collectors that make bench measures against" "10 min" ;;
    jmx_exporter) into "jmx_exporter-$(short_sum "$here/jmx_exporter/jars.sha256")" jmx_exporter "Prometheus' exporter of Kafka's metrics, by Maven" "10 s" ;;
    iceberg) into "iceberg-$(short_sum "$here/iceberg/jars.sha256")" iceberg "Iceberg's Java library, by Maven" "15 s" ;;
    deploy) environment "$deploy_dir" deploy.txt "a fake of AWS, and a check of policies" "1 min" ;;
    checkov) environment "$checkov_dir" checkov.txt "checks of Terraform's plan" "1 min" ;;
    python)
      environment "$venv" requirements.txt "pyiceberg, DuckDB and other readers and clients" "1 min"
      into "duckdb-iceberg-$(short_sum "$here/python/duckdb-iceberg.txt")" duckdb_iceberg "DuckDB's Iceberg extension" "10 s" ;;
    clients) into "$clients_dir" clients "stock OTLP clients in four languages" "1 min" ;;
    temporal) into "$temporal_dir" temporal "a Temporal server" "6 min" ;;
    *) echo "unknown part $part" >&2; sed -n 's/^#   //p' "$0" >&2; exit 2 ;;
  esac
done
