# Starts a fault inside a container. Runs by exec, as the container's own user, with nothing but a POSIX shell, /proc and
# the usual small tools. Its processes carry CHAOSRUN_FAULT in their environment: that is how the stop script finds them.
#
# Arguments: seconds, the stop script and its arguments (six in all, see stop.sh), then the action and its own.
# Answers one line: "proof ..." when the effect is there, or "failed ...".
seconds=$1 stop=$2 token=$3 also=$4 one=$5 other=$6 action=$7
shift 7

say() { echo "$*"; exit 0; }
pids() { for entry in /proc/[0-9]*; do echo "${entry#/proc/}"; done; }
marked() { grep -q "CHAOSRUN_FAULT=$token" "/proc/$1/environ" 2>/dev/null; }
# Kilobytes of a field of /proc/PID/status.
field() { while read -r name value _; do [ "$name" = "$2:" ] && echo "$value" && return; done <"/proc/$1/status" 2>/dev/null; }

command -v grep >/dev/null 2>&1 || say "failed the container has no grep"

# The end is armed before the begin: whatever becomes of the runner, this takes the fault back.
sh -c 'sleep "$1"; shift; eval "$1"' keeper "$seconds" "$stop" "$token" "$also" "$one" "$other" >/dev/null 2>&1 </dev/null &

case $action in
memory)
    # wanted: bytes, or 0; limit and percent: up to that share; past: the kernel shall kill the container, not us.
    wanted=$1 limit=$2 percent=$3 past=$4
    if [ "$wanted" = 0 ]; then
        used=0
        for pid in $(pids); do rss=$(field "$pid" VmRSS); used=$((used + ${rss:-0} * 1024)); done
        wanted=$((limit / 100 * percent - used))
        [ "$wanted" -gt 0 ] || say "failed $used bytes are in use already, more than $percent % of the limit of $limit bytes"
    fi
    if [ "$past" = yes ]; then
        # The kernel kills the process with the highest score first: it shall be the workload's.
        for pid in $(pids); do marked "$pid" || echo 1000 >"/proc/$pid/oom_score_adj"; done 2>/dev/null
        # That score is worth a little less than the whole limit, so no process of ours may hold all of it.
        holders=4
    else
        holders=1
    fi
    # One line without an end: tail keeps all of it, until its input ends.
    count=0
    while [ $count -lt $holders ]; do
        { head -c $((wanted / holders)) /dev/zero; sleep "$seconds"; } 2>/dev/null | tail >/dev/null 2>&1 &
        count=$((count + 1))
    done
    tries=0
    while [ $tries -lt 250 ]; do
        held=0
        for pid in $(pids); do
            marked "$pid" || continue
            rss=$(field "$pid" VmRSS)
            held=$((held + ${rss:-0} * 1024))
        done
        # The shells around them are small change.
        [ $held -ge $((wanted / 100 * 97)) ] && say "proof the processes of the fault hold $held bytes"
        tries=$((tries + 1))
        sleep 0.1
    done
    say "failed only part of $wanted bytes could be taken within 25 s"
    ;;
cpu)
    workers=$1 load=$2
    worker='while :; do
        read -r now _ </proc/uptime; now=${now%.*}${now#*.}; end=$((now + $1))
        while [ "$now" -lt "$end" ]; do read -r now _ </proc/uptime; now=${now%.*}${now#*.}; done
        [ "$1" -lt 100 ] && sleep "0.$(printf %02d $((100 - $1)))"
    done'
    count=0 started=
    while [ "$count" -lt "$workers" ]; do
        sh -c "$worker" worker "$load" >/dev/null 2>&1 </dev/null &
        started="$started $!"
        count=$((count + 1))
    done
    # Ticks of processor time so far: user and system, the 12th and 13th field after the name in brackets.
    ticks() {
        sum=0
        for pid in $started; do
            read -r line <"/proc/$pid/stat" 2>/dev/null || continue
            set -- ${line##*) }
            sum=$((sum + ${12} + ${13}))
        done
        echo "$sum"
    }
    before=$(ticks)
    sleep 2
    used=$(($(ticks) - before))
    hertz=$(getconf CLK_TCK 2>/dev/null || echo 100)
    # A processor limit may leave less than was asked for; a tenth of one worker is no stress.
    [ $((used * 10)) -ge $((hertz * 2 * load / 100)) ] || say "failed the busy processes got only $used ticks of processor time in 2 s"
    say "proof $workers processes used $((used * 100 / (hertz * 2))) % of one processor"
    ;;
disk)
    folder=$1 wanted=$2 percent=$3
    file=$one
    set -- $(df -Pk "$folder" 2>/dev/null | tail -n 1)
    total=$2 used=$3 free=$4
    [ -n "$free" ] || say "failed df cannot say how full $folder is"
    [ "$wanted" = 0 ] && wanted=$(((total * percent / 100 - used) * 1024))
    [ "$wanted" -gt 0 ] || say "failed the filesystem of $folder is fuller than that already"
    fallocate -l "$wanted" "$file" 2>/dev/null || head -c "$wanted" /dev/zero >"$file" 2>/dev/null
    [ -f "$file" ] || say "failed nothing can be written into $folder"
    size=$(wc -c <"$file")
    set -- $(df -Pk "$folder" | tail -n 1)
    # Less than was asked for means that the disk is full, which is what was wanted.
    [ "$size" -ge "$wanted" ] || [ "$4" -lt 1024 ] || say "failed only $size of $wanted bytes could be written"
    say "proof a file of $size bytes leaves $4 KiB free"
    ;;
pause)
    stopped=0 init=0
    for pid in $(pids); do
        marked "$pid" && continue
        if [ "$pid" = 1 ]; then init=1; continue; fi
        kill -STOP "$pid" 2>/dev/null && stopped=$((stopped + 1))
    done
    [ "$stopped" -gt 0 ] || say "failed the program is the init of its container, which cannot be stopped from inside"
    sleep 0.1
    for pid in $(pids); do
        marked "$pid" && continue
        [ "$pid" = 1 ] && continue
        [ -r "/proc/$pid/stat" ] || continue
        read -r line <"/proc/$pid/stat" 2>/dev/null || continue
        set -- ${line##*) }
        # Without a parent in here it came by exec, such as a probe's: it is not the workload's.
        [ "$2" = 0 ] && continue
        case $1 in
        T | t | Z | X) ;;
        *) say "failed process $pid still runs: the init of the container cannot be stopped from inside, and it starts new ones" ;;
        esac
    done
    say "proof $stopped processes are in state T (stopped)"
    ;;
remove)
    path=$one aside=$other
    [ -e "$path" ] || say "failed there is no $path"
    error=$(mv "$path" "$aside" 2>&1) || say "failed $path cannot be moved aside: $error"
    [ -e "$path" ] && say "failed $path is still there"
    say "proof $path is not there any more"
    ;;
unreadable)
    path=$one kept=$other
    [ -e "$path" ] || say "failed there is no $path"
    mode=$(stat -c %a "$path" 2>/dev/null) || say "failed stat cannot read the permissions of $path"
    echo "$mode" >"$kept" || say "failed nothing can be written beside $path"
    chmod 000 "$path" 2>/dev/null || say "failed the permissions of $path cannot be changed"
    if ls "$path/" >/dev/null 2>&1 || cat "$path" >/dev/null 2>&1; then
        say "failed $path can still be read (by root, permissions are no obstacle)"
    fi
    say "proof $path cannot be read any more"
    ;;
esac
say "failed there is no action $action"
