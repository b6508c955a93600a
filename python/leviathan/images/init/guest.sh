#!/lev/busybox sh
# /init of the guest: mounts, drivers, network; then runs /lev/exec and reports on virtio-serial ports, or gives a
# shell on the console.

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TERM=linux

b=/lev/busybox

fail() {
    echo "leviathan guest: $*" > /dev/console
    $b poweroff -f
}

load() {
    while read -r file parameters; do
        $b insmod "/lev/modules/$file" $parameters || fail "cannot load $file"
    done < "/lev/modules/$1"
}

prepare() {
    $b mount -t devtmpfs -o mode=755 devtmpfs /dev
    $b cp -a /lev/dev/. /dev/
    $b mount -a -T /lev/fstab
    echo leviathan > /proc/sys/kernel/hostname
    $b ifconfig lo up

    # Only drivers of devices that are there.
    load base
    serial=
    for device in /sys/bus/pci/devices/*; do
        read -r vendor < "$device/vendor"
        [ "$vendor" = 0x1af4 ] || continue
        read -r id < "$device/device"
        case $id in
            0x1000 | 0x1041) net=1 ;;
            0x1001 | 0x1042) block=1 ;;
            0x1003 | 0x1043) serial=1 ;;
        esac
    done
    [ -z "$serial" ] || load serial
    [ -z "${net-}" ] || load net
    [ -z "${block-}" ] || load block
    load extra
    [ ! -e /lev/modules/cxl ] || prepare_cxl
    export serial
}

# A driver may be there already (as another's need), or find nothing to do.
prepare_cxl() {
    while read -r file parameters; do
        said=$($b insmod "/lev/modules/$file" $parameters 2>&1) && continue
        case $said in
            *"File exists"* | *"No such device"*) ;;
            *) echo "leviathan guest: $said" > /dev/console ;;
        esac
    done < /lev/modules/cxl
    for kind in debugfs:debug tracefs:tracing configfs:config; do
        $b mount -t "${kind%:*}" "${kind%:*}" "/sys/kernel/${kind#*:}" 2> /dev/null
    done
    # Devices are probed in the background: wait until each has found its way up to its host bridge.
    expected=0
    for class in /sys/bus/pci/devices/*/class; do
        read -r kind < "$class"
        [ "$kind" != 0x050210 ] || expected=$((expected + 1))
    done
    tries=0
    while [ $tries -lt 250 ]; do
        set -- /sys/bus/cxl/devices/endpoint*
        [ -e "$1" ] || set --
        [ $# -lt $expected ] || break
        tries=$((tries + 1))
        $b usleep 20000
    done
}

# Sets $port to the device of the virtio-serial port with this name.
find_port() {
    for name in /sys/class/virtio-ports/*/name; do
        [ -r "$name" ] && read -r found < "$name" && [ "$found" = "$1" ] || continue
        port=${name%/name}
        port=/dev/${port##*/}
        [ -c "$port" ] && return 0
    done
    return 1
}

# Ports get their names a moment after the driver is loaded.
await_port() {
    tries=0
    until find_port "$1"; do
        tries=$((tries + 1))
        [ $tries -lt 1000 ] || return 1
        $b usleep 5000
    done
}

# CPUs that the kernel was told (maxcpus=) to leave to us.
start_cpus() {
    case " $($b cat /proc/cmdline) " in
        *" lev.cpus=late "*) ;;
        *) return ;;
    esac
    for online in /sys/devices/system/cpu/cpu[0-9]*/online; do
        read -r state < "$online"
        [ "$state" = 1 ] || start_cpu "$online" || fail "cannot start ${online%/online}"
    done
}

# Linux refuses (EBUSY) while a driver looks at a PCI device.
start_cpu() {
    tries=0
    until echo 1 2> /dev/null > "$1"; do
        tries=$((tries + 1))
        [ $tries -lt 60 ] || return 1
        $b sleep 1
    done
}

ready() {
    start_cpus
    read -r up idle < /proc/uptime
    echo "ready $up" >&3
}

run_command() {
    await_port org.leviathan.status || fail "no virtio-serial port org.leviathan.status"
    exec 3> "$port"
    await_port org.leviathan.stdout || fail "no virtio-serial port org.leviathan.stdout"
    stdout=$port
    await_port org.leviathan.stderr || fail "no virtio-serial port org.leviathan.stderr"
    stderr=$port
    # Through pipes, so that /dev/stdout and /dev/stderr can be opened again: a port cannot.
    $b mkfifo /lev/stdout /lev/stderr
    $b cat /lev/stdout > "$stdout" 3>&- &
    out=$!
    $b cat /lev/stderr > "$stderr" 3>&- &
    err=$!
    ready
    (cd /root && exec sh /lev/exec < /dev/null > /lev/stdout 2> /lev/stderr 3>&-)
    code=$?
    # Whatever the command left behind would hold the pipes open.
    for process in /proc/[0-9]*; do
        case ${process#/proc/} in
            1 | $$ | "$out" | "$err") ;;
            *) kill -9 "${process#/proc/}" ;;
        esac
    done 2> /dev/null
    wait "$out" "$err"
    echo "exit $code" >&3
}

run_shell() {
    if [ -n "$serial" ] && await_port org.leviathan.status; then
        exec 3> "$port"
        ready
    else
        start_cpus
    fi
    read -r active < /sys/class/tty/console/active
    tty=/dev/${active##* }
    cd /root
    $b setsid -c sh -l < "$tty" > "$tty" 2>&1 3>&-
}

# The first process prepares, then only reaps orphans and obeys busybox's reboot, poweroff and halt, which signal it;
# a shell runs traps while it waits for a job in the background, but not while one is in the foreground. The rest is
# not such a job, because those ignore SIGINT.
if [ $$ = 1 ]; then
    trap '$b reboot -f' TERM
    trap '$b poweroff -f' USR2
    trap '$b halt -f' USR1
    prepare
    $b start-stop-daemon -S -b -x /init || fail "cannot start the second half of /init"
    while :; do
        $b sleep 86400 &
        wait
    done
fi
if [ -e /lev/exec ]; then run_command; else run_shell; fi
$b poweroff -f
