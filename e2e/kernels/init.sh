#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
#
# The first process of the virtual machine, in an initramfs with busybox and the kernel's modules: mounts the disk, then
# runs the checks in it one after the other. A serial line of its own, which /report names, carries what comes of it, between lines of `@@`.
export PATH=/bin
/bin/busybox mkdir -p /proc /sys /dev /disk
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev 2>/dev/null

read -r report </report
exec 3>"$report"
stty -F "$report" raw
say() { echo "@@$*" >&3; }

while read -r module; do
  insmod "/modules/$module" || say "problem insmod $module"
done </modules/order
mount -t ext4 /dev/vda /disk || say "problem the disk cannot be mounted"
for kind in proc sysfs devtmpfs; do
  case $kind in proc) at=proc ;; sysfs) at=sys ;; devtmpfs) at=dev ;; esac
  mount -t $kind $kind /disk/$at
done
mount -t tmpfs tmpfs /disk/run
mkdir -m 1777 /disk/run/tmp
ip link set lo up
say "booted $(uname -r)"

while read -r limit file; do
  say "begin $file"
  start=$(cut -d. -f1 /proc/uptime)
  chroot /disk /run-check.sh "$limit" "$file" </dev/null >/disk/run/output 2>&1
  status=$?
  cat /disk/run/output >&3
  echo >&3
  say "end $file $status $(($(cut -d. -f1 /proc/uptime) - start))"
done </checks
say done
poweroff -f
