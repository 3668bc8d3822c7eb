#!/bin/bash
# A real SLURM on this one host, for trying things out:
#   examples/slurm/local_slurm.sh COMMAND [ARGUMENT ...]
# starts it, runs the command (sbatch, srun, sinfo, ...) with it, and stops it again.
# Needs root and, on Debian, 'apt-get install slurm-wlm munge'. Exit code 69: not installed.
set -euo pipefail

for program in munged slurmctld slurmd srun; do
    if ! PATH=$PATH:/usr/sbin command -v "$program" >/dev/null; then
        echo "$program is not installed: apt-get install slurm-wlm munge" >&2
        exit 69
    fi
done
[ "$(id -u)" = 0 ] || { echo "a local SLURM needs root" >&2; exit 69; }

run=$(mktemp -d)
host=$(hostname -s)
cpus=$(nproc --all)
((cpus >= 2)) || cpus=2 # two processes even on one core
export SLURM_CONF=$run/slurm.conf PATH=$PATH:/usr/sbin
started=()
stop() {
    for ((i = ${#started[@]} - 1; i >= 0; i--)); do
        kill "${started[i]}" 2>/dev/null || true
    done
    wait 2>/dev/null || true
    rm -rf "$run"
}
trap stop EXIT

mkdir -p "$run/state" "$run/spool"
cat >"$SLURM_CONF" <<CONF
ClusterName=local
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$run/munge.socket
SlurmctldPort=26817
SlurmdPort=26818
StateSaveLocation=$run/state
SlurmdSpoolDir=$run/spool
SlurmctldPidFile=$run/slurmctld.pid
SlurmdPidFile=$run/slurmd.pid
SlurmctldLogFile=$run/slurmctld.log
SlurmdLogFile=$run/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
SlurmdParameters=config_overrides
MpiDefault=none
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=1000
PartitionName=debug Nodes=$host Default=YES MaxTime=60 State=UP
CONF

# munge as this user, with a key and a socket of its own
chmod 755 "$run"
dd if=/dev/urandom of="$run/munge.key" bs=32 count=32 status=none
chmod 600 "$run/munge.key"
munged --foreground --force --key-file="$run/munge.key" --socket="$run/munge.socket" \
    --pid-file="$run/munge.pid" --log-file="$run/munge.log" --seed-file="$run/munge.seed" \
    2>"$run/munge.err" &
started+=($!)
slurmctld -D >"$run/slurmctld.out" 2>&1 &
started+=($!)
slurmd -D -N "$host" >"$run/slurmd.out" 2>&1 &
started+=($!)

for _ in $(seq 60); do
    if sinfo --noheader --states=idle 2>/dev/null | grep -q "$host"; then
        "$@"
        exit
    fi
    sleep 0.5
done
echo "SLURM did not start:" >&2
tail -n 20 "$run"/*.log "$run"/*.out "$run"/*.err >&2
exit 1
