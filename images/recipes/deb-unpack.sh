# SPDX-License-Identifier: Apache-2.0 OR MIT
# Inside the tool root: /artifact is the artifact. Arguments: packages, as paths.
mkdir /artifact/unpacked
for package in "$@"; do
    dpkg-deb --fsys-tarfile "$package" | tar --extract --no-same-owner --directory=/artifact/unpacked
done
