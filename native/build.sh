#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds the addon: native/build/Release/remora.node. Nothing is downloaded but what vendor.sh fetches, once.
# Needs: cmake, make or ninja, g++ 11 or newer, and `npm ci` done.
#
#   bash native/build.sh [TRIPLET]
#
# With a triplet of GNU's (aarch64-linux-gnu) its cross compiler builds native/build/TRIPLET/Release/remora.node.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bin=$here/../node_modules/.bin
triplet=${1:-}
build=$here/build${triplet:+/$triplet}
cross=()
if [[ -n $triplet ]]; then
  cross=(--CDCMAKE_SYSTEM_NAME=Linux "--CDCMAKE_SYSTEM_PROCESSOR=${triplet%%-*}" --cxx "$triplet-g++")
fi

bash "$here/vendor.sh" "$@"
log=$build/addon.log
"$bin/node" "$bin/cmake-js" build --directory "$here" --out "$build" --config Release --log-level info "${cross[@]}" >"$log" 2>&1 || {
  cat "$log" >&2
  exit 1
}
