#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Vendors what the addon links statically: libbpf, libelf and zlib, position independent, into native/build/vendor.
#
# The sources are pinned upstream tarballs, fetched by name as Debian source packages from the mirror this machine's
# own apt uses, and checked by the digests below. (Debian's own libelf.a is not position independent, so it cannot be
# linked into an addon.) A second run does nothing. `LIBBPF_SRC=/path/to/libbpf` takes libbpf from a tree instead.
#
#   bash native/vendor.sh [TRIPLET]
#
# With a triplet of GNU's (aarch64-linux-gnu) its cross compiler builds them, into native/build/TRIPLET/vendor.
#
# Needs: bash, apt-get, debian-archive-keyring, make, gcc, g++, tar, bzip2, gzip.
set -euo pipefail

suite=trixie
#        package   file                                    sha256
sources=(
  "libbpf   libbpf_1.5.0.orig.tar.gz                53492aff6dd47e4da04ef5e672d753b9743848bdb38e9d90eafbe190b7983c44"
  "elfutils elfutils_0.192.orig.tar.bz2             616099beae24aba11f9b63d86ca6cc8d566d968b802391334c91df54eab416b4"
  "zlib     zlib_1.3.dfsg+really1.3.1.orig.tar.gz   60dd315c07f616887caa029408308a018ace66e3d142726a97db164b3b8f69fb"
)

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
triplet=${1:-}
build=$here/build${triplet:+/$triplet}
final=$build/vendor
prefix=$build/vendor.new # takes the final name when it is whole
work=$build/vendor-work
download=$here/build/vendor-work/download # the sources are everybody's

say() { printf 'vendor: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

mkdir -p "$build"
exec 9>"$here/build/vendor.lock"
flock 9

stamp=$(sha256sum "${BASH_SOURCE[0]}" | cut -d' ' -f1)" ${LIBBPF_SRC:-}"
if [[ -f $final/stamp && $(<"$final/stamp") == "$stamp" ]]; then exit 0; fi
if [[ -n ${LIBBPF_SRC:-} && ! -f $LIBBPF_SRC/src/libbpf.c ]]; then
  die "LIBBPF_SRC=$LIBBPF_SRC is no libbpf tree: it has no src/libbpf.c"
fi

# The first mirror of the machine's own apt sources, deb822 or one-line; Ubuntu's mirrors do not carry Debian's suites.
# A machine has one kind or the other, and cat fails for the one it has not.
mirror() {
  local uri
  uri=$({ cat /etc/apt/sources.list.d/*.sources 2>/dev/null || true; } | awk '/^URIs:/ { print $2 }' | grep -m1 /debian) ||
    uri=$({ cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null || true; } |
      awk '$1 ~ /^deb/ { for (i = 2; i <= NF; i++) if ($i ~ /:\/\//) { print $i; break } }' | grep -m1 /debian) ||
    uri=${DEBIAN_MIRROR:-}
  [[ -n $uri ]] || return 1
  printf '%s\n' "${uri%/}"
}

checked() { [[ -f $1 ]] && [[ $(sha256sum "$1" | cut -d' ' -f1) == "$2" ]]; }

# Downloads what is not there yet: fetch PACKAGE... (in $download)
fetch() {
  local uri keyring=/usr/share/keyrings/debian-archive-keyring.gpg apt=$work/apt
  uri=$(mirror) || die "no Debian mirror in apt's sources: set DEBIAN_MIRROR, or put ${missing[*]} into $download"
  [[ -f $keyring ]] || die "no $keyring: install debian-archive-keyring"
  mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
  echo "deb-src [signed-by=$keyring] $uri $suite main" >"$apt/sources.list"
  local options=(
    -o "Dir::Etc::sourcelist=$apt/sources.list" -o "Dir::Etc::sourceparts=-" -o "Dir::State::lists=$apt/lists"
    -o "Dir::Cache=$apt/cache" -o APT::Sandbox::User=root -o Acquire::Retries=3 -q
  )
  say "fetching $* ($suite)"
  # Only the upstream tarball of each: the packaging beside it is not used, and changes with each of its revisions.
  # A mirror that is just being brought up to date may list what it does not hold: it gets time to catch up.
  local attempt
  for attempt in 1 2 3; do
    if ((attempt > 1)); then sleep 10; fi
    if (cd "$download" && apt-get "${options[@]}" update && apt-get "${options[@]}" source --tar-only --download-only "$@") \
      >"$work/fetch.log" 2>&1; then return; fi
  done
  tail -n 5 "$work/fetch.log" >&2
  die "could not fetch $*. Put ${missing[*]} into $download by hand (LIBBPF_SRC=DIR names a libbpf tree instead)"
}

# A quiet step, whose output is shown when it fails: step NAME COMMAND...
step() {
  local name=$1
  shift
  say "$name"
  "$@" >"$work/$name.log" 2>&1 || { tail -n 30 "$work/$name.log" >&2; die "$name failed (whole log: $work/$name.log)"; }
}

mkdir -p "$work" "$download"
wanted=() missing=()
for source in "${sources[@]}"; do
  read -r package file digest <<<"$source"
  [[ $package == libbpf && -n ${LIBBPF_SRC:-} ]] && continue
  checked "$download/$file" "$digest" || { wanted+=("$package"); missing+=("$file"); }
done
if ((${#wanted[@]})); then fetch "${wanted[@]}"; fi

rm -rf "$prefix" "$work/src"
mkdir -p "$prefix" "$work/src"
for source in "${sources[@]}"; do
  read -r package file digest <<<"$source"
  mkdir "$work/src/$package"
  if [[ $package == libbpf && -n ${LIBBPF_SRC:-} ]]; then
    cp -r "$LIBBPF_SRC/." "$work/src/libbpf/"
    continue
  fi
  checked "$download/$file" "$digest" || die "$file is not the one that is pinned (sha256 $digest)"
  tar -xf "$download/$file" -C "$work/src/$package" --strip-components=1
done

jobs=$(nproc)
export CFLAGS="-O2 -g0 -fPIC -ffunction-sections -fdata-sections"
unset MAKEFLAGS MAKELEVEL
if [[ -n $triplet ]]; then export CC=$triplet-gcc AR=$triplet-ar RANLIB=$triplet-ranlib; fi

build_zlib() {
  cd "$work/src/zlib" && ./configure --static --prefix="$prefix" &&
    make -j"$jobs" libz.a && install -D -m644 libz.a "$prefix/lib/libz.a" &&
    install -D -m644 -t "$prefix/include" zlib.h zconf.h
}
# Only lib/ and libelf/ of elfutils; of the compressors only zlib.
build_libelf() {
  cd "$work/src/elfutils" &&
    CPPFLAGS="-I$prefix/include" LDFLAGS="-L$prefix/lib" ./configure ${triplet:+--host="$triplet"} --disable-nls --disable-debuginfod \
      --disable-libdebuginfod --disable-demangler --disable-symbol-versioning \
      --without-bzlib --without-lzma --without-zstd &&
    make -j"$jobs" -C lib && make -j"$jobs" -C libelf libelf.a &&
    install -D -m644 libelf/libelf.a "$prefix/lib/libelf.a" &&
    install -D -m644 lib/libeu.a "$prefix/lib/libeu.a" &&
    install -D -m644 -t "$prefix/include" libelf/libelf.h libelf/gelf.h
}
build_libbpf() {
  cd "$work/src/libbpf/src" &&
    make -j"$jobs" BUILD_STATIC_ONLY=1 NO_PKG_CONFIG=1 OBJDIR="$work/src/objects" DESTDIR= PREFIX="$prefix" \
      LIBDIR="$prefix/lib" INCLUDEDIR="$prefix/include" CFLAGS="$CFLAGS -std=gnu89 -I$prefix/include" \
      install install_uapi_headers
}
step zlib build_zlib
step libelf build_libelf
step libbpf build_libbpf

echo "$stamp" >"$prefix/stamp"
rm -rf "$work/src" "$final"
mv "$prefix" "$final"
say "libbpf, libelf and zlib are in $final"
