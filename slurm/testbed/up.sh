#!/usr/bin/env bash
# Starts a Slurm cluster of four nodes with two fake GPUs each on this machine, and ends once it works.
# On a running cluster it says so; of a half-running one it starts what is missing; otherwise it begins anew.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

install_packages() {
    local command missing=0
    for command in slurmctld slurmd slurmdbd sbatch munged mungekey mariadbd; do
        command -v "$command" >/dev/null || missing=1
    done
    ((missing)) || return 0
    command -v apt-get >/dev/null ||
        fail "Slurm is not installed and there is no apt-get: install slurmctld, slurmd, slurmdbd, munge and MariaDB."
    say "installing Slurm, munge and MariaDB with apt-get"
    local log
    log="$(mktemp)"
    if ! { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
        slurm-wlm slurm-client slurmdbd munge mariadb-server mariadb-client; } >"$log" 2>&1 </dev/null; then
        tail -n 30 "$log" >&2
        fail "apt-get failed; the whole output is in $log."
    fi
    rm -f "$log"
}

# Plain `sbatch`, `sinfo`, ... must find the cluster, in jobs too, so the testbed needs the one place where they look.
check_link() {
    [[ -e $LINK || -L $LINK ]] || return 0
    [[ -L $LINK && "$(readlink "$LINK")" == "$SLURM_CONF" ]] ||
        fail "$LINK exists and is not this testbed's: this machine belongs to another Slurm cluster, and nothing was changed."
}

name_nodes_in_hosts() {
    local node
    for node in "${NODES[@]}"; do
        grep -qE "^[^#]*[[:space:]]$node([[:space:]]|\$)" /etc/hosts || echo "127.0.0.1 $node" >>/etc/hosts
        [[ "$(getent ahostsv4 "$node" | awk 'NR == 1 { print $1 }')" == 127.0.0.1 ]] ||
            fail "the name $node must mean 127.0.0.1 (training ranks meet at it), but /etc/hosts says otherwise."
    done
}

fill_in() {
    sed -e "s|@STATE@|$STATE|g" -e "s|@HOST@|$(hostname -s)|g" \
        -e "s|@FIRST_JOB_ID@|$((($(date +%s) - 1735689600) / 10))|g" "$HERE/$1.in" >"$STATE/etc/$1"
}

# A cold start begins from nothing: what a killed cluster left behind would only make tests differ from run to
# run. The logs of the run before are kept.
make_state() {
    local leftover
    for leftover in "$STATE"/*; do
        case ${leftover##*/} in
            lock | '*' | log.before) ;;
            *) [[ -e $STATE/is-birdsd-testbed ]] || fail "$STATE has files that are not a testbed's; set BIRDSD_TESTBED to another folder." ;;
        esac
    done
    touch "$STATE/is-birdsd-testbed"
    rm -rf "$STATE/log.before"
    [[ ! -d $STATE/log ]] || mv "$STATE/log" "$STATE/log.before"
    (cd "$STATE" && rm -rf etc run munge mariadb slurmctld spool dev)
    mkdir -p "$STATE"/{etc,run,log,munge,mariadb,slurmctld,spool/n{1..4},dev}
    chmod 755 "$STATE" "$STATE"/{etc,munge,mariadb,spool}
    # Slurm sets CUDA_VISIBLE_DEVICES only for device files, and looks through a link.
    ln -s /dev/null "$STATE/dev/gpu0"
    ln -s /dev/null "$STATE/dev/gpu1"
    fill_in slurm.conf
    fill_in gres.conf
    (umask 077 && fill_in slurmdbd.conf)
    chown mysql "$STATE/mariadb"
    mungekey --create --keyfile="$STATE/munge/key"
    mariadb-install-db --no-defaults --user=mysql --datadir="$STATE/mariadb/data" --skip-test-db \
        --auth-root-authentication-method=socket >"$STATE/log/mariadb-install.out" 2>&1 9>&- || {
        tail -n 15 "$STATE/log/mariadb-install.out" >&2
        fail "mariadb-install-db failed."
    }
}

register_cluster() {
    local command
    [[ -z "$(timeout 30 sacctmgr --noheader show associations "cluster=$CLUSTER" user=root)" ]] || return 0
    for command in "add cluster $CLUSTER" "add qos low" "add account birdsd cluster=$CLUSTER qos=normal,low" \
        "add user root cluster=$CLUSTER account=birdsd" \
        "modify user root where cluster=$CLUSTER set defaultaccount=birdsd"; do
        # shellcheck disable=SC2086
        timeout 30 sacctmgr --immediate $command >>"$STATE/log/sacctmgr.out" 2>&1 ||
            { tail -n 5 "$STATE/log/sacctmgr.out" >&2 && fail "sacctmgr $command failed."; }
    done
}

nodes_in() {
    local states
    states="$(timeout 10 sinfo --noheader --Node --partition=normal --format=%T)" || return 1
    (($(grep -cE "^($1)\$" <<<"$states") == ${#NODES[@]}))
}

usable() { nodes_in 'idle|mixed|allocated|completing'; }

give_up() {
    local name
    say "$1; the ends of the logs:"
    timeout 10 sinfo --Node --long 2>&1 | sed 's|^|    sinfo: |' || true
    for name in "${DAEMONS[@]}"; do show_log "$name"; done
    exit 1
} >&2

# What the tests are built on: two nodes at once, with GPUs, and with the addresses that ranks will meet at.
try_job() {
    local answer
    answer="$(timeout 60 srun --immediate=45 --nodes=2 --ntasks=4 --gres=gpu:2 \
        bash -c 'echo "$SLURM_PROCID:$CUDA_VISIBLE_DEVICES"' 2>&1)" || give_up "a trial job failed: $answer"
    [[ "$(sort <<<"$answer" | paste -sd ' ')" == "0:0,1 1:0,1 2:0,1 3:0,1" ]] || give_up "a trial job printed: $answer"
}

check_place
lock
install_packages
check_link

living=0
for name in "${DAEMONS[@]}"; do alive "$name" && ((living += 1)); done
if ((living == ${#DAEMONS[@]})) && usable; then
    ln -sfn "$SLURM_CONF" "$LINK"
    say "already running: $STATE"
    exit 0
fi

name_nodes_in_hosts
if ((living == 0)); then
    for node in "${NODES[@]}"; do end_jobs_on "$node"; done
    make_state
else
    say "$living of ${#DAEMONS[@]} daemons are running and not all nodes are usable: mending it"
fi
mkdir -p "${LINK%/*}"
ln -sfn "$SLURM_CONF" "$LINK"
for name in "${DAEMONS[@]}"; do
    start_daemon "$name" || give_up "the cluster did not start"
    [[ $name != slurmdbd ]] || register_cluster
done
if ((living)) && ! wait_for 20 usable; then
    # A node that was drained or set down by hand stays so until somebody says otherwise.
    scontrol update "nodename=n[1-4]" state=resume || true
fi
wait_for 60 usable || give_up "the nodes did not become usable within a minute"
if [[ -z "$(squeue --noheader)" ]]; then
    wait_for 30 nodes_in idle || give_up "the nodes did not become idle"
    try_job
fi
say "running: four nodes with two GPUs each, partitions normal, besteffort and urgent; logs in $STATE/log"
