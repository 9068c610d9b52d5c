# Kills the product's processes once their owner is gone, however it went (exit, panic, SIGKILL): stdin is a pipe whose
# other end only the owner holds. Lines: "+PID" a process was started, "-PID" it has been waited for, so that its number
# may belong to somebody else from now on.
trap '' HUP INT TERM
alive=' '
while read -r line; do
    case $line in
        +*) alive="$alive${line#+} " ;;
        -*) pid=${line#-}; alive="${alive%% "$pid" *} ${alive#* "$pid" }" ;;
    esac
done
for pid in $alive; do
    kill -9 "$pid" 2>/dev/null
done
