# SPDX-License-Identifier: Apache-2.0 OR MIT
# Inside the tool root: /work/ko has modules as they were found, /work/files receives what the guest runs.
# Arguments: programs and data files.
#
# Modules are unpacked here because a guest without KVM would need seconds for it. Debug information and BTF go: the
# kernel parses BTF at every load, and nothing in the guest reads it. The signature goes with them; the code stays as
# the distribution built it.
cd /work/ko
for file in *.ko.*; do
    case $file in
        *.xz) xz --decompress "$file" ;;
        *.zst) zstd --quiet --rm --decompress "$file" ;;
        *.gz) gzip --decompress "$file" ;;
    esac
done
for file in *.ko; do
    objcopy --strip-debug --remove-section=.BTF --remove-section=.BTF.base "$file"
done

take() {
    mkdir -p "/work/files$(dirname "$1")"
    cp --dereference "$1" "/work/files$1"
}
for file in "$@"; do
    take "$file"
    # Static programs and data have no libraries: ldd says so by its exit code.
    libraries=$(ldd "$file" 2>/dev/null | grep --only-matching '/[^ )]*') || continue
    for library in $libraries; do
        [ -e "/work/files$library" ] || take "$library"
    done
done
