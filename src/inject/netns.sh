# Runs in a container of its own beside the target, in the network namespace of the pod: shapes the pod's traffic or cuts its name
# resolution, proves it, and takes it back when it is told to end or its time is over.
# Arguments: seconds, then what to do. Writes "proof ..." or "failed ..." once, then only waits.
seconds=$1 action=$2
shift 2
device=eth0
host=${KUBERNETES_SERVICE_HOST:-} port=${KUBERNETES_SERVICE_PORT:-443}

undo() {
    case $action in
    netem | tbf) tc qdisc del dev "$device" root 2>/dev/null ;;
    dns)
        nft delete table inet chaosrun_dns 2>/dev/null
        iptables -D OUTPUT -p udp --dport 53 -j DROP 2>/dev/null
        iptables -D OUTPUT -p tcp --dport 53 -j DROP 2>/dev/null
        ;;
    esac
}
end() { undo; exit 0; }
fail() { undo; echo "failed $*"; exit 1; }
trap end TERM INT HUP

# Milliseconds of one connection to the API server: the address that every pod knows. Empty when there was none.
connect() {
    before=$(date +%s%N)
    timeout 5 bash -c "exec 3<>/dev/tcp/$host/$port" 2>/dev/null || return 0
    after=$(date +%s%N)
    echo $(((after - before) / 1000000))
}
resolves() { timeout 5 getent hosts kubernetes.default.svc >/dev/null 2>&1; }

[ -n "$host" ] || [ "$action" = dns ] || fail "KUBERNETES_SERVICE_HOST is not set, so there is nothing to measure against"

case $action in
netem)
    # what: delay or loss; least: milliseconds that a connection must take more, or percent.
    what=$1 least=$2
    shift 2
    quiet=$(connect)
    [ -n "$quiet" ] || fail "no connection to $host:$port before the fault"
    error=$(tc qdisc add dev "$device" root netem "$@" 2>&1) || fail "tc: $error"
    if [ "$what" = delay ]; then
        slow=$(connect)
        [ -n "$slow" ] || fail "no connection to $host:$port under the delay"
        [ $((slow - quiet)) -ge $((least / 2)) ] || fail "a connection took $quiet ms before and $slow ms under the delay"
        echo "proof a connection to $host:$port took $quiet ms before and $slow ms under the delay"
    else
        tries=0
        while [ $tries -lt 60 ]; do
            connect >/dev/null &
            wait $!
            dropped=$(tc -s qdisc show dev "$device" 2>/dev/null | sed -n 's/.*dropped \([0-9]*\).*/\1/p' | head -n 1)
            [ "${dropped:-0}" -gt 0 ] && break
            tries=$((tries + 1))
        done
        [ "${dropped:-0}" -gt 0 ] || fail "the kernel dropped no packet in $tries connections"
        echo "proof the queue of $device dropped $dropped packets"
    fi
    ;;
tbf)
    error=$(tc qdisc add dev "$device" root tbf "$@" 2>&1) || fail "tc: $error"
    shown=$(tc qdisc show dev "$device" | head -n 1)
    case $shown in *tbf*) echo "proof the kernel says: $shown" ;; *) fail "the kernel shows $shown instead" ;; esac
    ;;
dns)
    resolves || fail "kubernetes.default.svc cannot be resolved before the fault"
    if command -v nft >/dev/null 2>&1; then
        error=$(nft 'add table inet chaosrun_dns
add chain inet chaosrun_dns output { type filter hook output priority 0; }
add rule inet chaosrun_dns output udp dport 53 drop
add rule inet chaosrun_dns output tcp dport 53 drop' 2>&1) || fail "nft: $error"
    else
        error=$(iptables -I OUTPUT -p udp --dport 53 -j DROP 2>&1 && iptables -I OUTPUT -p tcp --dport 53 -j DROP 2>&1) ||
            fail "iptables: $error"
    fi
    resolves && fail "names are resolved all the same: the resolver is not asked over the network of the pod"
    echo "proof kubernetes.default.svc cannot be resolved any more"
    ;;
*) fail "there is no action $action" ;;
esac

# Woken by a signal at once.
sleep "$seconds" &
wait $!
end
