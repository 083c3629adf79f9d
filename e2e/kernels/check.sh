#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Runs one check inside the virtual machine's root: check.sh SECONDS FILE (of the repository, whose place ./root names).
cd "$(</root-of-repository)" || exit 1
export PATH=/compilers:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root NO_COLOR=1
# The repository may lie below /tmp: nothing is mounted there. The cache is what one check's processes have for the next.
export TMPDIR=/run/tmp NODE_COMPILE_CACHE=/run/compiled
exec timeout -k 5 "$1" node_modules/.bin/node "$2"
