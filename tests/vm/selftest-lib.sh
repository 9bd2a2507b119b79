# shellcheck shell=bash
# The functions of the kernel's tools/testing/selftests/net/netfilter/lib.sh that the selftests of docs/upstream use,
# for kernels and machines without it. There it is their `lib.sh`.
ksft_skip=4
namespaces=()

checktool() {
    if ! $1 > /dev/null 2>&1; then
        echo "SKIP: could not $2"
        exit $ksft_skip
    fi
}

# Sets each variable to the name of a new namespace.
setup_ns() {
    local name ns
    for name; do
        ns=$name-$(mktemp -u XXXXXX)
        ip netns add "$ns" || return $ksft_skip
        printf -v "$name" %s "$ns"
        namespaces+=("$ns")
        ip -n "$ns" link set lo up
    done
}

cleanup_all_ns() {
    local ns
    for ns in "${namespaces[@]}"; do ip netns del "$ns"; done
}
