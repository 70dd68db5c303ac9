# SPDX-License-Identifier: Apache-2.0 OR MIT
# Inside the tool root: /work is the artifact, /work/debs its packages.
# Arguments: release, name of the source package, where its tree goes, then the other packages.
release=$1 source=$2 tree=$3
shift 3

deb() { set -- "/work/debs/$1"_*.deb; echo "$1"; }

(
    mkdir /work/unpacked
    for package in "$@"; do
        dpkg-deb --fsys-tarfile "$(deb "$package")" | tar --extract --directory=/work/unpacked
    done
    cd /work/unpacked/usr
    mv "lib/modules/$release" /work/lib/modules/
    rm -f "/work/lib/modules/$release/build" "/work/lib/modules/$release/source"
    mv "/work/lib/modules/$release/vmlinuz" /work/vmlinuz
    mv "src/linux-headers-$release/Module.symvers" "src/linux-headers-$release/.config" /work/unpacked/
    depmod --basedir=/work "$release"
) &
modules=$!

dpkg-deb --fsys-tarfile "$(deb "$source")" |
    tar --extract --file=- --to-stdout "./usr/src/$source.tar.xz" |
    xz --decompress --threads=0 |
    tar --extract --directory="$tree" --strip-components=1

wait "$modules"
mv /work/unpacked/.config "$tree/.config"
