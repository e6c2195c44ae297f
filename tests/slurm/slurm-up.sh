#!/usr/bin/env bash
# Start a Slurm cluster of four small nodes on this machine: a controller, four slurmd, accounting, and GPUs that are not.
#
#   make slurm-up        or: tests/slurm/slurm-up.sh           as root, on Debian 12 or Ubuntu; about half a minute
#   make slurm-down      or: tests/slurm/slurm-down.sh
#
# Partitions: bm (bm01, bm02; 4 "h100" each), vgpu (vgpu01, vgpu02; 4 "h100vgpu" each), and urgent, which takes bm's nodes
# from its jobs. Each node has a network, a host name and a view of some files of its own (networks.sh); where that is not
# permitted all share the loopback, and tests that need it fail or are skipped. Everything lies below ROOT. Calling it
# again starts what is not running.
#
# Settings, from the environment:
#   SERVEGAUGE_SLURM_ROOT   folder of the cluster                               (default /tmp/servegauge-slurm)
#   ACCOUNTING              1: slurmdbd and MariaDB, so that sacct works; 0: none   (default 1)
#   MIN_JOB_AGE             seconds that squeue remembers an ended job              (default 300)
#   NETWORKS                0: all nodes on the loopback                            (default 1)
#   LATE_S                  how late ROOT/late shows what others wrote              (default 3)
set -euo pipefail
# Daemons keep what they inherit: a lock of the caller would be held for as long as the cluster runs. 255 is bash's own.
for file in "/proc/$$/fd/"*; do
  descriptor=${file##*/}
  [ "$descriptor" -le 2 ] || [ "$descriptor" = 255 ] || exec {descriptor}>&-
done

ROOT=${SERVEGAUGE_SLURM_ROOT:-/tmp/servegauge-slurm}
ACCOUNTING=${ACCOUNTING:-1}
MIN_JOB_AGE=${MIN_JOB_AGE:-300}
NETWORKS=${NETWORKS:-1}
ETC=/etc/slurm
MARK="# written by servegauge tests/slurm/slurm-up.sh"
HOST=$(hostname -s)
NODES=(bm01 bm02 vgpu01 vgpu02)
GPUS=4
. "$(dirname "$0")/networks.sh"

fail() { printf 'slurm-up: %s\n' "$*" >&2; exit 1; }
say() { printf 'slurm-up: %3d s  %s\n' "$SECONDS" "$*"; }

# wait_for SECONDS WHAT COMMAND...: until COMMAND succeeds.
wait_for() {
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$end" ] || fail "$what did not come up; its log is in $ROOT/log"
    sleep 0.1
  done
}

# runs PIDFILE: true while the process that it names lives.
runs() { [ -s "$1" ] && kill -0 "$(<"$1")" 2>/dev/null; }

preconditions() {
  [ "$(id -u)" = 0 ] || fail "it must be root: slurmd starts jobs for others, munge wants its own user"
  if [ -e $ETC/slurm.conf ] && ! grep -qF "$MARK" $ETC/slurm.conf; then
    fail "$ETC/slurm.conf belongs to another cluster; this script does not touch it"
  fi
}

packages() {
  local wanted=(slurmctld slurmd slurm-client munge) missing=() one
  [ "$NETWORKS" = 0 ] || wanted+=(iproute2 mergerfs)
  [ "$ACCOUNTING" = 0 ] || wanted+=(slurmdbd slurm-wlm-mysql-plugin mariadb-server)
  for one in "${wanted[@]}"; do
    dpkg-query -W -f '${Status}' "$one" 2>/dev/null | grep -q 'ok installed' || missing+=("$one")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  say "installing ${missing[*]}"
  # A package must not start its daemon by itself: the configuration is not there yet.
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >"$ROOT/log/apt.log" 2>&1 ||
    fail "apt-get could not install them; see $ROOT/log/apt.log"
}

# Clones of /dev/null stand for GPUs: Slurm counts them and sets CUDA_VISIBLE_DEVICES, and nothing can be computed on them.
fake_gpus() {
  local number
  for number in $(seq 0 $((GPUS - 1))); do
    [ -c "$ROOT/dev/nvidia$number" ] || mknod -m 666 "$ROOT/dev/nvidia$number" c 1 3
  done
}

# node_line NODE: its line of slurm.conf. On one loopback a port tells nodes apart.
node_line() {
  local where="NodeHostname=$1 NodeAddr=$(address "$1")" what="Gres=gpu:h100:$GPUS Feature=baremetal"
  local port=$((17000 + $(address "$1" | cut -d . -f 4)))
  [ "$NETWORKS" = 1 ] || where="NodeHostname=$HOST NodeAddr=127.0.0.1"
  case $1 in vgpu*) what="Gres=gpu:h100vgpu:$GPUS Feature=vgpu" ;; esac
  echo "NodeName=$1 $where Port=$port CPUs=16 RealMemory=64000 $what"
}

slurm_conf() {
  local accounting="AccountingStorageType=accounting_storage/none" controller=127.0.0.1 node
  [ "$NETWORKS" = 0 ] || controller=$LOGIN
  if [ "$ACCOUNTING" = 1 ]; then
    accounting="AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStorageTRES=gres/gpu
AccountingStorageEnforce=associations,limits,qos
JobAcctGatherType=jobacct_gather/linux"
  fi
  cat <<CONF
$MARK
ClusterName=servegauge
SlurmctldHost=$HOST($controller)
SlurmUser=root
AuthType=auth/munge
StateSaveLocation=$ROOT/state
SlurmdSpoolDir=$ROOT/spool/%n
SlurmctldPidFile=$ROOT/run/slurmctld.pid
SlurmdPidFile=$ROOT/run/slurmd.%n.pid
SlurmctldLogFile=$ROOT/log/slurmctld.log
SlurmdLogFile=$ROOT/log/slurmd.%n.log
# No cgroups and no systemd are needed; linuxproc still finds children that called setsid.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
# Nodes claim more CPUs and memory than this machine has.
SlurmdParameters=config_overrides
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
# A node that somebody set down stays down.
ReturnToService=1
# A scheduler in a hurry: tests wait for it.
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=2,sched_min_interval=0
MinJobAge=$MIN_JOB_AGE
KillWait=10
SlurmctldTimeout=30
SlurmdTimeout=60
DefMemPerCPU=512
$accounting
$(for node in "${NODES[@]}"; do node_line "$node"; done)
PartitionName=bm Nodes=bm[01-02] Default=YES MaxTime=02:00:00 DefaultTime=00:10:00 PriorityTier=1
PartitionName=vgpu Nodes=vgpu[01-02] MaxTime=02:00:00 DefaultTime=00:10:00 PriorityTier=1
PartitionName=urgent Nodes=bm[01-02] MaxTime=00:30:00 PriorityTier=10 PreemptMode=OFF
CONF
}

configure() {
  mkdir -p $ETC
  slurm_conf >$ETC/slurm.conf
  cat >$ETC/gres.conf <<CONF
$MARK
NodeName=bm[01-02] Name=gpu Type=h100 File=$ROOT/dev/nvidia[0-$((GPUS - 1))]
NodeName=vgpu[01-02] Name=gpu Type=h100vgpu File=$ROOT/dev/nvidia[0-$((GPUS - 1))]
CONF
  printf '%s\nCgroupPlugin=cgroup/v1\n' "$MARK" >$ETC/cgroup.conf
}

start_munge() {
  install -d -o munge -g munge -m 755 /run/munge
  chown munge:munge /var/log/munge /var/lib/munge
  [ -s /etc/munge/munge.key ] || mungekey --create 2>/dev/null || create-munge-key -f >/dev/null
  runs /run/munge/munged.pid || su -s /bin/sh munge -c 'munged --num-threads=2'
  wait_for 10 munge sh -c 'munge -n | unmunge'
}

start_accounting() {
  [ "$ACCOUNTING" = 1 ] || return 0
  if ! runs "$ROOT/run/mariadb.pid"; then
    chown mysql:mysql "$ROOT/mysql"
    install -d -o mysql -g mysql /run/mysqld
    [ -d "$ROOT/mysql/mysql" ] ||
      mariadb-install-db --user=mysql --datadir="$ROOT/mysql" --skip-test-db >"$ROOT/log/mariadb.log" 2>&1
    setsid mariadbd --no-defaults --user=mysql --datadir="$ROOT/mysql" --socket=/run/mysqld/mysqld.sock \
      --skip-networking --innodb-buffer-pool-size=64M --innodb-lock-wait-timeout=900 \
      --innodb-flush-log-at-trx-commit=0 >>"$ROOT/log/mariadb.log" 2>&1 </dev/null &
    echo $! >"$ROOT/run/mariadb.pid"
    wait_for 30 MariaDB mariadb-admin --no-defaults --socket=/run/mysqld/mysqld.sock ping
  fi
  install -m 600 /dev/null $ETC/slurmdbd.conf
  cat >$ETC/slurmdbd.conf <<CONF
$MARK
AuthType=auth/munge
DbdHost=localhost
SlurmUser=root
PidFile=$ROOT/run/slurmdbd.pid
LogFile=$ROOT/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
CONF
  runs "$ROOT/run/slurmdbd.pid" || slurmdbd
  wait_for 30 slurmdbd sacctmgr -n -i list cluster
  # Adding what is there already is an error to sacctmgr, and fine with us.
  sacctmgr -i -Q add cluster servegauge >/dev/null 2>&1 || true
  sacctmgr -i -Q add account hpcbench cluster=servegauge >/dev/null 2>&1 || true
  sacctmgr -i -Q add user root account=hpcbench defaultaccount=hpcbench >/dev/null 2>&1 || true
}

start_slurm() {
  local node
  runs "$ROOT/run/slurmctld.pid" || slurmctld
  wait_for 30 slurmctld scontrol ping
  for node in "${NODES[@]}"; do
    mkdir -p "$ROOT/spool/$node"
    runs "$ROOT/run/slurmd.$node.pid" && continue
    if [ "$NETWORKS" = 1 ]; then
      on_node "$node" setsid slurmd -N "$node" </dev/null
    else
      setsid slurmd -N "$node" </dev/null
    fi
  done
  # A node that an earlier test set down stays down until it is told otherwise.
  scontrol update nodename="$(IFS=,; echo "${NODES[*]}")" state=resume 2>/dev/null || true
  wait_for 30 "the nodes" all_idle
}

all_idle() { [ "$(sinfo -h -N -t idle,mix,alloc -o %N | sort -u | wc -l)" = ${#NODES[@]} ]; }

preconditions
mkdir -p "$ROOT"/{state,log,run,spool,dev,mysql}
chmod 755 "$ROOT"
packages
if [ "$NETWORKS" = 1 ] && reason=$(why_no_networks) && [ -n "$reason" ]; then
  say "the nodes have no networks of their own: $reason"
  NETWORKS=0
fi
[ "$NETWORKS" = 0 ] || networks_up
fake_gpus
configure
start_munge
start_accounting
start_slurm
say "the cluster is up"
sinfo -o '%10P %16N %6t %4c %8m %16G %f'
