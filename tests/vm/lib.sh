# shellcheck shell=bash
# Functions for the tests in booted machines. A bash script under tests/vm sources it directly after `set -euo
# pipefail`. Owns the cache directory, temporary copies of a root, and checks. Does not start guests: tests/vm/guest
# does.

VM_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
VM_CACHE=${VXCSUM_VM_CACHE:-$(cd "$VM_DIR/../.." && pwd)/build/vm}
VM_LOGS=$VM_CACHE/logs
# shellcheck disable=SC2034  # for the scripts that source this
VM_SUITE=bookworm

mkdir -p "$VM_CACHE" "$VM_LOGS"
# The cache may be inside a checkout: git must ignore it.
[ -e "$VM_CACHE/.gitignore" ] || echo '*' > "$VM_CACHE/.gitignore"

vm_log() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
vm_die() { vm_log "$*"; exit 1; }

# vm_need TOOL...: fails with instructions if a tool is missing.
vm_need() {
    local tool
    for tool; do
        [ -n "$(PATH=$PATH:/usr/sbin:/sbin type -P "$tool")" ] || vm_die "find $tool: not installed: run tests/vm/prepare"
    done
}

# A scratch directory that is removed at any end of the script. Other clean-up: vm_at_exit 'COMMAND'.
VM_AT_EXIT=()
vm_at_exit() { VM_AT_EXIT+=("$1"); }
vm_run_at_exit() {
    local i
    for ((i = ${#VM_AT_EXIT[@]} - 1; i >= 0; i--)); do eval "${VM_AT_EXIT[i]}" || true; done
}
trap vm_run_at_exit EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

vm_scratch() {
    [ -z "${VM_SCRATCH:-}" ] || return 0
    # Leftovers of a kill -9.
    find "$VM_CACHE" -maxdepth 1 -name 'scratch.*' -mmin +1440 -exec rm -rf --one-file-system {} +
    VM_SCRATCH=$(mktemp -d "$VM_CACHE/scratch.XXXXXX")
    # shellcheck disable=SC2016  # expanded at exit
    vm_at_exit 'rm -rf --one-file-system "$VM_SCRATCH"'
}

# vm_copy ROOT NAME: a temporary copy of the cached root ROOT; sets VM_ROOT to its path. Survives several boots of one
# test.
vm_copy() {
    local from
    from=$("$VM_DIR/root" "$1")
    vm_scratch
    VM_ROOT=$VM_SCRATCH/$2
    [ ! -e "$VM_ROOT" ] || vm_die "copy root $1: $2 exists already"
    cp -a --reflink=auto "$from" "$VM_ROOT"
}

# vm_share NAME: an empty directory that is /vm in the guest; sets VM_SHARE. The executable file `run` in it is the job
# of the guest.
vm_share() {
    vm_scratch
    VM_SHARE=$VM_SCRATCH/$1.share
    mkdir "$VM_SHARE"
}

# vm_chroot ROOT COMMAND...: runs a command in a root that is not booted (dpkg -i there does not touch this machine's systemd).
vm_chroot() {
    local root=$1
    shift
    # shellcheck disable=SC2016  # expanded by the inner shell
    unshare --mount --pid --fork --propagation private -- bash -euc '
        mount -t proc proc "$1/proc"
        mount -t tmpfs tmpfs "$1/run"
        root=$1; shift
        exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive chroot "$root" "$@"' \
        vm_chroot "$root" "$@"
}

# vm_pretend_rhel ROOT: gives a root the os-release of the distribution that matches the release of the `affected`
# kernel.
vm_pretend_rhel() {
    rm -f "$1/etc/os-release"
    cat > "$1/etc/os-release" <<'OS'
NAME="CentOS Linux"
VERSION="8 (Core)"
ID="centos"
ID_LIKE="rhel fedora"
VERSION_ID="8"
PLATFORM_ID="platform:el8"
PRETTY_NAME="CentOS Linux 8 (Core)"
OS
}

# vm_check 'WHAT' COMMAND...: prints one line for each check; vm_done at the end fails if any check failed.
VM_CHECKS=0
VM_FAILED=0
vm_check() {
    local what=$1
    shift
    VM_CHECKS=$((VM_CHECKS + 1))
    if "$@"; then
        echo "ok      $what"
    else
        VM_FAILED=$((VM_FAILED + 1))
        echo "FAILED  $what"
    fi
}
vm_done() {
    [ "$VM_CHECKS" -gt 0 ] || vm_die "no check was made"
    echo "$((VM_CHECKS - VM_FAILED)) of $VM_CHECKS checks passed"
    [ "$VM_FAILED" -eq 0 ]
}
