# Ends a fault inside a container, however far it got. Idempotent.
# Arguments: itself (when it is evaluated by the keeper), token, what else is to be done, and its two paths.
token=$2 also=$3 one=$4 other=$5
if [ "$also" = end ]; then
    # It takes the fault back in its own handler; when it is gone, so is the fault, and so are we.
    kill -TERM 1 2>/dev/null
    tries=0
    while kill -0 1 2>/dev/null && [ $tries -lt 100 ]; do
        sleep 0.1
        tries=$((tries + 1))
    done
    exit 1
fi
for entry in /proc/[0-9]*; do
    pid=${entry#/proc/}
    [ "$pid" = $$ ] && continue
    grep -q "CHAOSRUN_FAULT=$token" "$entry/environ" 2>/dev/null || continue
    kill -KILL "$pid" 2>/dev/null
done
case $also in
continue)
    for entry in /proc/[0-9]*; do
        pid=${entry#/proc/}
        [ "$pid" = $$ ] || kill -CONT "$pid" 2>/dev/null
    done
    ;;
remove) rm -f "$one" ;;
back)
    if [ -e "$other" ]; then
        # Somebody made it anew meanwhile: that is data too, and stays beside.
        [ -e "$one" ] && mv "$one" "$other.made-meanwhile"
        mv "$other" "$one" || exit 1
    fi
    ;;
give)
    if [ -e "$other" ]; then
        read -r mode <"$other"
        chmod "$mode" "$one" && rm -f "$other" || exit 1
    fi
    ;;
esac
