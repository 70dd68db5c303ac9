# SPDX-License-Identifier: Apache-2.0 OR MIT
# Inside the tool root. Argument: the tree of a kernel that was built. What modules are built against stays: headers,
# makefiles, Rust metadata, Module.symvers, and the programs below scripts and tools.
cd "$1"
rm -rf Documentation sound samples drivers/gpu tools/perf vmlinux vmlinux.* .tmp_vmlinux*
find . \( -path ./scripts -o -path ./tools \) -prune -o -type f \
    \( -name '*.o' -o -name '*.a' -o -name '*.ko' -o -name '*.c' -o -name '*.S' -o -name '.*.cmd' \) -print0 |
    xargs -0 rm -f
rm -f arch/x86/boot/bzImage arch/x86/boot/vmlinux.bin arch/x86/boot/compressed/vmlinux*
