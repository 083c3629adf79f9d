#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Stands in for a compiler (clang, gcc, cc: the name it is called by). On the machine that builds it calls the real one and
# keeps the answer; in a virtual machine, which has no compiler, it gives the answer that was kept. What makes two calls
# the same: the arguments, and the bytes of the files among them. A test's scratch folder may have another name.
set -u
shopt -s extglob
here=${0%/*}
name=${0##*/}

# Few processes: each costs much where the processor is emulated.
output=
files=()
previous=
call=$name
scratch="${TMPDIR:-/tmp}/remora-test-+([^/])"
for argument; do
  if [[ $previous == -o ]]; then
    output=$argument
  else
    call+=$'\n'${argument//$scratch/SCRATCH}
    if [[ -f $argument ]]; then files+=("$argument"); fi
  fi
  previous=$argument
done
key=$(cat - "${files[@]}" <<<"$call" | sha256sum)
key=${key%% *}

answer=$here/answers/$key
if [[ ! -d $answer ]]; then
  PATH=:$PATH:
  PATH=${PATH//:$here:/:}
  real=$(command -v "$name") || {
    echo "$name $*: this call was not made on the machine that builds" >&2
    exit 127
  }
  fresh=$here/answers/new.$$
  mkdir -p "$fresh"
  "$real" "$@" >"$fresh/stdout" 2>"$fresh/stderr"
  echo $? >"$fresh/status"
  if [[ -n $output && -f $output ]]; then cp -p "$output" "$fresh/output"; fi
  # What the machine's own processor is to run: the disk of a machine of another architecture gets this in its place.
  if [[ -n ${FOREIGN_CC:-} && $name != clang && -f $fresh/output ]]; then
    "$FOREIGN_CC" "$@" && mv "$output" "$fresh/foreign"
  fi
  mv -T "$fresh" "$answer" 2>/dev/null || rm -rf "$fresh" # another was quicker
fi
if [[ -s $answer/stdout ]]; then cat "$answer/stdout"; fi
if [[ -s $answer/stderr ]]; then cat "$answer/stderr" >&2; fi
if [[ -f $answer/output ]]; then cp -p "$answer/output" "$output"; fi
exit "$(<"$answer/status")"
