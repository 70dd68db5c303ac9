# SPDX-License-Identifier: Apache-2.0 OR MIT
# Inside the tool root: /stock is the stock kernel's prepared tree. Argument: where the copy goes, an empty directory.
cp --archive --reflink=auto /stock/. "$1"
make -C "$1" mrproper
