# SPDX-License-Identifier: Apache-2.0 OR MIT
# Inside the tool root: /artifact/ko has modules as they were found, /artifact/files receives what the guest runs.
# Arguments: programs and data files.
#
# Modules are unpacked and made lean here because a guest without KVM would need seconds for it. Code and data stay as
# the distribution built them; what goes is only read while a module is loaded:
# - debug information, BTF (parsed at every load) and the signature (which no longer fits then);
# - names of data and of function paddings: ftrace looks every function up by a walk over all names of the module
#   (test_for_valid_rec() in kernel/trace/ftrace.c, 7.3), so xfs with 23,000 names takes nearly twice as long.
#   Names of functions stay, for backtraces.
cd /artifact/ko
for file in *.ko.*; do
    case $file in
        *.xz) xz --decompress "$file" ;;
        *.zst) zstd --quiet --rm --decompress "$file" ;;
        *.gz) gzip --decompress "$file" ;;
    esac
done
for file in *.ko; do
    nm "$file" | awk '$2 ~ /^[dDbBrR]$/ || $3 ~ /^__pfx_/ { print $3 }' >/tmp/names
    objcopy --strip-debug --remove-section=.BTF --remove-section=.BTF.base --strip-unneeded-symbols=/tmp/names "$file"
done

take() {
    mkdir -p "/artifact/files$(dirname "$1")"
    cp --dereference "$1" "/artifact/files$1"
}
for file in "$@"; do
    take "$file"
    # Static programs and data have no libraries: ldd says so by its exit code.
    libraries=$(ldd "$file" 2>/dev/null | grep --only-matching '/[^ )]*') || continue
    for library in $libraries; do
        [ -e "/artifact/files$library" ] || take "$library"
    done
done
