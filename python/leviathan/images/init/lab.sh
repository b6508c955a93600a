#!/lev/busybox sh
# /init of a lab machine: KVM, network between the machines, then the agent, which serves the host until the end.

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8

b=/lev/busybox
$b mount -t devtmpfs -o mode=755 devtmpfs /dev
$b cp -a /lev/dev/. /dev/
$b mount -a -T /lev/fstab
echo lab > /proc/sys/kernel/hostname
$b ifconfig lo up

while read -r file parameters; do
    $b insmod "/lev/modules/$file" $parameters || echo "lab: cannot load $file"
done < /lev/modules/base

# Each card leads to one other machine; the last two bytes of its address are ours and the other's number.
for card in /sys/class/net/eth*; do
    [ -r "$card/address" ] || continue
    read -r address < "$card/address"
    other=$((0x${address##*:}))
    own=${address%:*}
    own=$((0x${own##*:}))
    card=${card##*/}
    $b ip address add "10.87.0.$own" peer "10.87.0.$other" dev "$card"
    $b ip link set "$card" up
done

/lev/agent serve org.leviathan.agent
echo "lab: the agent ended with $?"
$b poweroff -f
