# SPDX-License-Identifier: Apache-2.0 OR MIT
# Inside the tool root: /artifact is the artifact, /artifact/debs its packages.
# Arguments: release, name of the source package, where its tree goes, then the other packages.
release=$1 source=$2 tree=$3
shift 3

deb() { set -- "/artifact/debs/$1"_*.deb; echo "$1"; }

(
    mkdir /artifact/unpacked
    for package in "$@"; do
        dpkg-deb --fsys-tarfile "$(deb "$package")" | tar --extract --directory=/artifact/unpacked
    done
    cd /artifact/unpacked/usr
    mv "lib/modules/$release" /artifact/lib/modules/
    rm -f "/artifact/lib/modules/$release/build" "/artifact/lib/modules/$release/source"
    mv "/artifact/lib/modules/$release/vmlinuz" /artifact/vmlinuz
    mv "src/linux-headers-$release/Module.symvers" "src/linux-headers-$release/.config" /artifact/unpacked/
    depmod --basedir=/artifact "$release"
) &
modules=$!

dpkg-deb --fsys-tarfile "$(deb "$source")" |
    tar --extract --file=- --to-stdout "./usr/src/$source.tar.xz" |
    xz --decompress --threads=0 |
    tar --extract --directory="$tree" --strip-components=1

wait "$modules"
mv /artifact/unpacked/.config "$tree/.config"
