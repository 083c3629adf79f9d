#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds the addon: native/build/Release/remora.node. Nothing is downloaded but what vendor.sh fetches, once.
# Needs: cmake, make or ninja, g++ 11 or newer, and `npm ci` done.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bin=$here/../node_modules/.bin

bash "$here/vendor.sh"
log=$here/build/addon.log
"$bin/node" "$bin/cmake-js" build --directory "$here" --out "$here/build" --config Release --log-level info >"$log" 2>&1 || {
  cat "$log" >&2
  exit 1
}
