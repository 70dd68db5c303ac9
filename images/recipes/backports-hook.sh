# SPDX-License-Identifier: Apache-2.0 OR MIT
# mmdebstrap's customize hook: $1 is the root. The mirror of backports is the mirror of the suite itself.
set -eu
list="$1/etc/apt/sources.list.d/backports.list"
sed -n "s|^deb \(.*\) $LONGPIN_SUITE main.*|deb \1 $LONGPIN_BACKPORTS main|p" "$1/etc/apt/sources.list" | head -n 1 >"$list"
[ -s "$list" ] || { echo "E: longpin: no line of suite $LONGPIN_SUITE in the root's sources.list" >&2; exit 1; }
chroot "$1" apt-get update
chroot "$1" apt-get install --yes --no-install-recommends -t "$LONGPIN_BACKPORTS" $LONGPIN_PACKAGES
