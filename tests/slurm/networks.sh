# Sourced by slurm-up.sh and slurm-down.sh: a network, a host name and a view of the files for each node.
#
# The switch is a network namespace with a bridge; each node is a namespace with one cable to it, and the machine itself
# has one cable, `sg-login`. No node has a route out of the switch, and none of the machine's own devices is touched.
# ROOT/late is a file system of its own, of 256 MB, that the machine and every node see late, each in its own way: a name
# that was not there when it was looked for stays away for LATE_S seconds, as with NFS. ROOT/late.d shows the same at once.

NET=198.18.77 # of the range for tests between networks (RFC 2544), which nothing routes
LOGIN=$NET.1
LATE_S=${LATE_S:-3}

# address NODE: its address; nodes are numbered from 11 in the order of NODES.
address() {
  local number=11 node
  for node in "${NODES[@]}"; do
    [ "$node" != "$1" ] || { echo "$NET.$number"; return; }
    number=$((number + 1))
  done
}

mounted() { findmnt --noheadings --mountpoint "$1" >/dev/null; }

# why_no_networks: what this machine does not permit, or nothing.
why_no_networks() {
  local probe
  probe=$(unshare --net --uts --mount sh -c 'ip link add type veth && mount -t tmpfs none /mnt' 2>&1) ||
    echo "this machine does not permit them: ${probe##*$'\n'}"
  [ -c /dev/fuse ] || echo "there is no /dev/fuse on this machine"
}

# namespace NAME: a network namespace that ROOT/net/NAME keeps.
namespace() {
  mounted "$ROOT/net/$1" && return
  : >"$ROOT/net/$1"
  unshare --net="$ROOT/net/$1" ip link set lo up
}

inside() { nsenter --net="$ROOT/net/$1" "${@:2}"; }

# cable NAME END DEVICE: from the switch, where it is called NAME, to the namespace END (a file or a process).
cable() {
  inside switch ip link add "$1" type veth peer name "$3" netns "$2"
  inside switch ip link set "$1" addrgenmode none master bridge up
}

networks_up() {
  local node
  stat "$ROOT/late" >/dev/null 2>&1 || umount --lazy "$ROOT/late" 2>/dev/null || true # one whose mergerfs was killed
  mkdir -p "$ROOT"/{net,late,late.d}
  namespace switch
  inside switch ip link show bridge >/dev/null 2>&1 || inside switch ip link add bridge up type bridge
  if ! ip link show sg-login >/dev/null 2>&1; then
    cable login $$ sg-login
    ip address add "$LOGIN/24" dev sg-login
    ip link set sg-login addrgenmode none up
  fi
  {
    printf '127.0.0.1 localhost\n%s %s\n' "$LOGIN" "$HOST"
    for node in "${NODES[@]}"; do echo "$(address "$node") $node"; done
  } >"$ROOT/net/hosts"
  for node in "${NODES[@]}"; do
    namespace "$node"
    inside "$node" ip link show eth0 >/dev/null 2>&1 && continue
    cable "$node" "$ROOT/net/$node" eth0
    inside "$node" ip address add "$(address "$node")/24" dev eth0
    inside "$node" ip link set eth0 addrgenmode none up
  done
  mounted "$ROOT/late.d" || mount -t tmpfs -o size=256m,mode=755 servegauge "$ROOT/late.d"
  mounted "$ROOT/late" || see_late login
}

# see_late WHO: mount ROOT/late anew, for whoever shares this process's mounts.
see_late() {
  local cached=cache.entry=$LATE_S,cache.negative_entry=$LATE_S,cache.attr=$LATE_S,cache.readdir=true
  setsid mergerfs -f -o "$cached,minfreespace=0,moveonenospc=false,fsname=servegauge-late" \
    "$ROOT/late.d" "$ROOT/late" >"$ROOT/log/late.$1.log" 2>&1 </dev/null &
  echo $! >"$ROOT/run/late.$1.pid"
  wait_for 10 "the late folder of $1" mounted "$ROOT/late"
}

# on_node NODE COMMAND...: the command as it is on that node, in its network, with its name, hosts and files.
on_node() {
  export -f see_late mounted wait_for fail
  ROOT=$ROOT LATE_S=$LATE_S nsenter --net="$ROOT/net/$1" unshare --uts --mount bash -euc '
    hostname "$0"
    mount --bind "$ROOT/net/hosts" /etc/hosts
    umount "$ROOT/late"
    see_late "$0"
    exec "$@"' "$@"
}

# Undo all of it, in whatever state it is; what is not there is passed over.
networks_down() {
  local file
  for file in "$ROOT"/run/late.*.pid; do stop "$file" mergerfs; done
  ip link delete sg-login 2>/dev/null
  for file in "$ROOT"/net/* "$ROOT/late" "$ROOT/late.d"; do
    while mounted "$file" && umount --lazy "$file"; do :; done
  done
  rm -rf "$ROOT/net"
}
