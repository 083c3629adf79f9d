#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# The first process of an enclosure (see enclosure.ts), in new mount, network and process namespaces: mounts what is
# private, prints its process id as the outside sees it, and lasts as long as its standard input.
#
#   enclosure.sh FOLDER
set -e
dir=$1

private_mounts() {
  mount -t proc proc /proc
  [ -d /sys/fs ] || mount -t sysfs sysfs /sys
  mount -t tmpfs -o mode=0755 tmpfs /run
  mount -t tmpfs -o mode=0755 tmpfs /var/lib
  mkdir -p "$dir/bpffs"
  mount -t bpf -o mode=0700 bpf "$dir/bpffs"
  grep -q ' - cgroup' /proc/self/mountinfo || cgroups
}

# The machine's hierarchies, where nobody has mounted them: those of version 1 that have controllers, or else version 2.
cgroups() {
  if ! grep -q '^[1-9]' /proc/self/cgroup; then
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    return
  fi
  mount -t tmpfs tmpfs /sys/fs/cgroup
  while IFS=: read -r id controllers path; do
    case $id:$controllers in 0:* | *:name=*) continue ;; esac
    mkdir "/sys/fs/cgroup/$controllers"
    mount -t cgroup -o "$controllers" cgroup "/sys/fs/cgroup/$controllers"
  done </proc/self/cgroup
}

# In a chroot, the root of this mount namespace is not ours but the machine's, and that is where runc would end up. This
# makes the chroot the root of this namespace: from the machine's root (where nsenter leads) it is bound to a place of its
# own and pivoted to.
if [ "$(stat -c %d:%i /)" = "$(nsenter --mount=/proc/self/ns/mnt stat -c %d:%i /)" ]; then
  mount --make-rprivate /
else
  nsenter --mount=/proc/self/ns/mnt mount --make-rprivate /
  mkdir "$dir/root" "$dir/old"
  mount --rbind / "$dir/root"
  exec nsenter --mount=/proc/self/ns/mnt --wd="$dir/root" \
    sh -c 'pivot_root . ".$1/old" && umount -l "$1/old" && exec sh "$0" "$1"' "$0" "$dir"
fi

# Read before the new /proc is mounted.
read -r pid rest </proc/self/stat
private_mounts
ip link set lo up
echo "$pid"
# So that the kernel reaps what is orphaned to this process.
trap '' CHLD
exec cat >/dev/null
