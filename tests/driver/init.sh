#!/bin/sh
# SPDX-License-Identifier: Apache-2.0 OR MIT
# /init of the guest: the driver, a file system on the disk, then the tests that the kernel's command line names.
# Words there: tests=A,B, module=PARAMETER=VALUE,... and rounds=N for storms.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
mount -t debugfs debugfs /sys/kernel/debug
for word in $(cat /proc/cmdline); do
    case $word in
        tests=*) tests=$(echo "${word#tests=}" | tr , ' ') ;;
        rounds=*) export STORM_ROUNDS="${word#rounds=}" ;;
        module=*) parameters=$(echo "${word#module=}" | tr , ' ') ;;
    esac
done
for module in virtio_pci virtio_blk ext4; do modprobe "$module"; done
modprobe longpin $parameters
mkfs.ext4 -q -F /dev/vda
mount -t ext4 /dev/vda /mnt
/usr/bin/driver-test /dev/ttyS1 $tests
umount /mnt
# Nobody has the device open any more, so the module can go, and its end unbinds.
rmmod longpin || echo "driver-test: rmmod failed" >/dev/kmsg
# Where the kernel looks for memory that nobody refers to: what it finds twice is lost.
if [ -e /sys/kernel/debug/kmemleak ]; then
    echo scan >/sys/kernel/debug/kmemleak
    echo scan >/sys/kernel/debug/kmemleak
    while read -r line; do echo "kmemleak: $line" >/dev/kmsg; done </sys/kernel/debug/kmemleak
fi
echo "driver-test: over" >/dev/kmsg
# By a system call: a kernel need not have the magic key.
busybox poweroff -f
sleep 1000
