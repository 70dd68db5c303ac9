# SPDX-License-Identifier: Apache-2.0 OR MIT
# Inside the tool root. Arguments: the tree, and a patch of it. busybox, since the root has no other: its patch takes no -d.
cd "$1"
busybox patch -p1 -i "$2"
