#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Puts in place what a part of the work needs and the machine lacks: Debian packages, then the npm packages of the
# lock file. Silent and quick where nothing is missing, so that every npm script can begin with it.
#
#   bash scripts/setup.sh build|cross|test|kernels|arm64|demo|bench
set -euo pipefail
cd "$(dirname "$0")/.."

# One entry a package. `package=command` is content with the command, whoever brought it: a machine that has
# containerd from somebody else must keep it.
build=(
  ca-certificates
  gcc g++ libc6-dev linux-libc-dev make cmake    # the addon
  debian-archive-keyring bzip2 gzip tar xz-utils # the sources of what it links statically
  clang=clang llvm=llvm-strip                    # the BPF programs
  musl-tools=musl-gcc                            # the launcher, which has no shared libraries
  binutils util-linux
  libatomic1 libstdc++6                          # what the pinned Node asks of its host
)
test=(
  "${build[@]}"
  iproute2 iputils-ping procps util-linux mount kmod
  busybox-static bpftool=bpftool
  containerd=containerd runc=runc # those of other suites, and podman, are not installed: see e2e/clients/clients.ts
  containernetworking-plugins
  iptables=iptables               # the portmap and firewall plugins call it
  qemu-system-x86=qemu-system-x86_64 e2fsprogs zstd # other kernels' machines, their disks, the modules of some kernels
  tshark=tshark libfixbuf-tools=ipfixDump # collectors that read IPFIX back
)
# Not installed but unpacked, into .cache: on a machine with systemd the package would start a collector and enable it.
unpacked=(nfdump=nfcapd)
kernels=("${test[@]}")
cross=(
  "${build[@]}"
  gcc-aarch64-linux-gnu g++-aarch64-linux-gnu # `npm run build -- --arch arm64`
)
arm64=(
  "${kernels[@]}" "${cross[@]}"
  qemu-system-arm
)
demo=("${test[@]}")
bench=(
  "${test[@]}"
  iperf3 sockperf # throughput and latency between pods
)

part=${1:-}
case $part in
  build | cross | test | kernels | arm64 | demo | bench) ;;
  *)
    echo "usage: bash scripts/setup.sh build|cross|test|kernels|arm64|demo|bench" >&2
    exit 2
    ;;
esac

fail() {
  echo "setup: $*" >&2
  exit 1
}

# Prints the packages of the list that are missing, a name each.
missing_packages() {
  local installed entry package command
  installed=" $(dpkg-query -W -f '${db:Status-Status} ${Package}\n' 2>/dev/null | sed -n 's/^installed //p' | tr '\n' ' ') "
  for entry in "$@"; do
    package=${entry%%=*}
    command=${entry#*=}
    if [[ $installed == *" $package "* ]]; then continue; fi
    if [[ $entry == *=* ]] && PATH=$PATH:/usr/sbin:/sbin command -v "$command" >/dev/null; then continue; fi
    echo "$package"
  done
}

# apt-get of packages, without a question and without a word; all it said is shown when it fails. A mirror that is just being
# brought up to date may list what it does not hold: it gets time to catch up. (A machine's own user can still download.)
apt() {
  local output attempt options=(-q -y -o DPkg::Lock::Timeout=600)
  for attempt in 1 2 3; do
    if ((attempt > 1)); then sleep 10; fi
    output=$(
      export DEBIAN_FRONTEND=noninteractive
      exec 2>&1 </dev/null
      if ((EUID == 0)); then apt-get "${options[@]}" update || exit; fi
      apt-get "${options[@]}" "$@"
    ) && return
  done
  echo "$output" >&2
  fail "apt-get $1 failed (above)"
}

install_packages() {
  local missing
  mapfile -t missing < <(missing_packages "$@")
  if ((${#missing[@]} == 0)); then return; fi
  command -v apt-get >/dev/null || fail "this machine lacks ${missing[*]} (Debian's names) and has no apt-get: install them by hand"
  ((EUID == 0)) || fail "this machine lacks ${missing[*]}: run as root, or: apt-get install ${missing[*]}"
  echo "setup: installs ${missing[*]}"
  # Never at the price of something that is installed already.
  apt install --no-install-recommends --no-remove "${missing[@]}"
}

# Their commands are in .cache/PACKAGE/usr/bin; they need no more than what every Debian has.
unpack_packages() {
  local entry package command work
  for entry in "$@"; do
    package=${entry%%=*}
    command=${entry#*=}
    if [[ -e .cache/$package/usr/bin/$command ]] || command -v "$command" >/dev/null; then continue; fi
    command -v apt-get >/dev/null || fail "this machine lacks $package (Debian's name) and has no apt-get: install it by hand"
    echo "setup: unpacks $package"
    work=.cache/$package.new
    rm -rf "$work" ".cache/$package"
    mkdir "$work"
    (cd "$work" && apt download "$package" && dpkg-deb -x ./*.deb . && rm ./*.deb)
    mv "$work" ".cache/$package"
  done
}

install_modules() {
  local output
  if [[ node_modules/.package-lock.json -nt package-lock.json ]]; then return; fi
  echo "setup: npm ci"
  output=$(npm ci --no-audit --no-fund --loglevel=error </dev/null 2>&1) || {
    echo "$output" >&2
    fail "npm ci failed (above)"
  }
  # npm 9 (Debian 12's) does not link the commands of optional packages, and the pinned Node is one.
  if [[ ! -e node_modules/.bin/node ]]; then
    output=$(npm rebuild $(cd node_modules && echo node-linux-*) 2>&1 </dev/null) || {
      echo "$output" >&2
      fail "npm rebuild failed (above)"
    }
  fi
  # npm keeps the time of an unchanged tree's own lock.
  touch node_modules/.package-lock.json
}

# Two at once would trip over each other's node_modules.
mkdir -p .cache
exec 9>.cache/setup.lock
flock 9

if command -v dpkg-query >/dev/null; then
  declare -n packages=$part
  install_packages "${packages[@]}"
  # The fuzzer's runtime: Debian names it after clang's version.
  if [[ $part == test ]] && ! compgen -G "$(clang -print-resource-dir)/lib/*/libclang_rt.fuzzer*" >/dev/null; then
    install_packages "libclang-rt-$(clang -dumpversion | cut -d. -f1)-dev"
  fi
  if [[ $part == test ]]; then unpack_packages "${unpacked[@]}"; fi
else
  echo "setup: no Debian machine; see scripts/setup.sh for what is needed" >&2
fi
install_modules
