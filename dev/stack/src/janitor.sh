# Kills process groups and deletes a folder ($1, if given) once the owner has ended.
#
# stdin is a pipe whose other end only the owner holds: it ends with the owner, however that ends
# (drop, exit, panic, Ctrl-C, SIGKILL). Until then it delivers lines: "+PID" a process was started
# (PID leads its process group), "-PID" that process has been waited for, so another process may get
# its id from now on.
trap '' HUP INT TERM
alive=' '
while read -r line; do
    case $line in
        +*) alive="$alive${line#+} " ;;
        -*) pid=${line#-}; alive="${alive%% "$pid" *} ${alive#* "$pid" }" ;;
    esac
done
for pid in $alive; do
    # With -s: dash takes no "--" after -9.
    kill -s KILL -- "-$pid" 2>/dev/null
done
[ $# -gt 0 ] || exit 0
# A server that is still dying may create a file while its folder is being deleted.
tries=0
until rm -rf -- "$1" 2>/dev/null || [ "$tries" -ge 200 ]; do
    tries=$((tries + 1))
    sleep 0.05
done
