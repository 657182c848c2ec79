#!/usr/bin/env bash
# Writes a release into a folder: for each architecture an archive of the programs, for each image its OCI layout as a tar file, SBOMs, the notes of
# CHANGELOG.md, provenance (SLSA, as an in-toto statement), and the checksums of all these with an SSH signature. Needs no network and no daemon.
#   tools/release.sh OUT BUILD VERSION REVISION SECONDS ARCH...
# BUILD has linux-ARCH/ with the programs, and image/ with the layouts. SECONDS since 1970 are the time of every file.
#   RELEASE_KEY  SSH private key to sign with; its public key must be in ALLOWED_SIGNERS. Empty: a dry run, signed by a key that is made for it and then gone
#   ALLOWED_SIGNERS  whose signature counts (default: tools/release.allowed_signers)
#   BUILDER_ID   who builds, for the provenance (default: local)
set -euo pipefail
if [ $# -lt 6 ]; then sed -n 's/^# \{0,1\}//p' "$0" | sed 1d >&2; exit 2; fi
out=$1 build=$2 version=$3 revision=$4 seconds=$5; shift 5
root=$(cd "$(dirname "$0")/.." && pwd)
source=https://github.com/pulsegrid/pulsegrid
identity=release@pulsegrid namespace=pulsegrid-release # of the signature
signers=${ALLOWED_SIGNERS:-$root/tools/release.allowed_signers}

fail() { echo "release: $*" >&2; exit 1; }
# archive FILE DIR NAME: DIR/NAME as a tar file that is the same from the same files, whoever writes it.
archive() { tar --create --file "$1" --directory "$2" --sort=name --owner=0 --group=0 --numeric-owner --mode=u+rw,go=rX --mtime="@$seconds" \
  --format=ustar "$3"; }
sum() { sha256sum "$1" | cut -d' ' -f1; }

notes=$(awk -v heading="## [$version]" 'index($0, heading) == 1 { on = 1; next } /^## |^\[/ { on = 0 } on' "$root/CHANGELOG.md")
[ -n "${notes//[[:space:]]/}" ] || fail "CHANGELOG.md has no section [$version], or an empty one"
if [ -n "${RELEASE_KEY:-}" ]; then
  [[ $revision != *-dirty && $revision != unknown ]] || fail "what is signed must be a commit, not $revision"
  public=$(ssh-keygen -y -f "$RELEASE_KEY" | cut -d' ' -f1,2)
  grep -qF "$public" "$signers" || fail "the public key of RELEASE_KEY is not in $signers: nobody could check the signature"
fi
rm -rf "$out"; mkdir -p "$out"
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT

for arch in "$@"; do
  echo "release: linux/$arch" >&2
  name=pulsegrid_${version}_linux_$arch
  mkdir -p "$work/$name/distributions"
  cp -rL "$build/linux-$arch"/{pulsegrid,pulsegrid-collector,healthcheck,licenses} "$root"/{LICENSE,README.md,CHANGELOG.md} "$work/$name"
  cp -r "$root"/distributions/{gateway,aggregator} "$work/$name/distributions"
  archive "$work/$name.tar" "$work" "$name"
  gzip -n <"$work/$name.tar" >"$out/$name.tar.gz"
  for program in pulsegrid pulsegrid-collector healthcheck; do
    "$root/tools/sbom.sh" "$build/linux-$arch/$program" "$version" "$out/${program}_${version}_linux_$arch.cdx.json"
  done
done
images=
for image in pulsegrid pulsegrid-collector; do
  archive "$out/${image}_${version}_image.tar" "$build/image/$image" .
  digest=$(sed -n 's/^ *"digest": "sha256:\([0-9a-f]*\)".*$/\1/p' "$build/image/$image/index.json")
  [ ${#digest} = 64 ] || fail "$build/image/$image/index.json names no single image"
  images+="    {\"name\": \"$image:$version\", \"digest\": {\"sha256\": \"$digest\"}},"$'\n'
done
# On the release's page a relative link leads nowhere.
printf '%s\n' "$notes" | sed -e '/./,$!d' -e "s#](\([^):]*\))#]($source/blob/v$version/\1)#g" >"$out/notes.md"

subjects=$(cd "$out"; for file in *; do printf '    {"name": "%s", "digest": {"sha256": "%s"}},\n' "$file" "$(sum "$file")"; done)
cat >"$out/provenance.intoto.json" <<JSON
{
  "_type": "https://in-toto.io/Statement/v1",
  "subject": [
$images${subjects%,}
  ],
  "predicateType": "https://slsa.dev/provenance/v1",
  "predicate": {
    "buildDefinition": {
      "buildType": "$source/blob/main/docs/images.md#releases",
      "externalParameters": {"target": "make release", "version": "$version", "architectures": "$*"},
      "internalParameters": {"SOURCE_DATE_EPOCH": "$seconds", "go": "$(go env GOVERSION)", "uncommitted": "$([[ $revision == *-dirty ]] && echo yes || echo no)"},
      "resolvedDependencies": [{"uri": "git+$source", "digest": {"gitCommit": "${revision%-dirty}"}}]
    },
    "runDetails": {"builder": {"id": "$source/blob/main/tools/release.sh#${BUILDER_ID:-local}"}}
  }
}
JSON
(cd "$out"; sha256sum -- * >"$work/checksums.txt"; mv "$work/checksums.txt" .)
if [ -z "${RELEASE_KEY:-}" ]; then
  ssh-keygen -q -t ed25519 -N '' -C 'dry run' -f "$work/key"
  RELEASE_KEY=$work/key signers=$out/dry-run.allowed_signers
  echo "$identity namespaces=\"$namespace\" $(cat "$work/key.pub")" >"$signers"
  echo "release: a dry run: signed by a key of its own, which is in dry-run.allowed_signers" >&2
fi
ssh-keygen -q -Y sign -n "$namespace" -f "$RELEASE_KEY" "$out/checksums.txt" 2>/dev/null || fail "signing failed"
ssh-keygen -q -Y verify -n "$namespace" -I "$identity" -f "$signers" -s "$out/checksums.txt.sig" <"$out/checksums.txt" >/dev/null || fail "what was signed does not verify"
echo "release: $out has $(ls "$out" | wc -l) files of $version" >&2
