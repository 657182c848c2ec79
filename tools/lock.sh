#!/usr/bin/env bash
# Writes anew the lists of what tools/install.sh takes: each package with the checksums of its files. Run it, as `make lock`, after a version was
# changed (tools/python/*.in, pom.xml, package.json), and read the diff. No list names a registry.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/versions.env"
clients=$here/../integration/clients/testdata
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT

python3 -m venv "$tmp/uv"
"$tmp/uv/bin/pip" install --quiet --disable-pip-version-check "uv==$UV_VERSION"
for list in requirements duckdb-iceberg deploy checkov; do # every file of a version, for any platform and any Python from PYTHON_MIN on
  "$tmp/uv/bin/uv" --quiet pip compile --universal --python-version "$PYTHON_MIN" --generate-hashes --no-annotate --upgrade \
    --custom-compile-command "make lock" "$here/python/$list.in" -o "$here/python/$list.txt"
done

for pom in "$here/kafka" "$here/jmx_exporter" "$here/iceberg" "$clients/java"; do
  mkdir "$tmp/maven" && cp "$pom/pom.xml" "$tmp/maven"
  (cd "$tmp/maven" && mvn -B -q --strict-checksums dependency:copy-dependencies)
  (cd "$tmp/maven/libs" && sha256sum -- *) >"$pom/jars.sha256"
  rm -rf "$tmp/maven"
done

mkdir "$tmp/js" && cp "$clients/js/package.json" "$tmp/js"
(cd "$tmp/js" && npm install --silent --no-audit --no-fund --ignore-scripts --package-lock-only --omit-lockfile-registry-resolved)
cp "$tmp/js/package-lock.json" "$clients/js"
