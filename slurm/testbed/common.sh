# shellcheck shell=bash
# What up.sh, down.sh and daemon.sh share: where things lie, and how one daemon is started, found and ended.
# To be sourced.

HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
STATE="${BIRDSD_TESTBED:-/var/tmp/birdsd-testbed}"
CLUSTER=birdsd-testbed
NODES=(n1 n2 n3 n4)
# In the order in which they are started; down.sh goes the other way.
DAEMONS=(munged mariadbd slurmdbd slurmctld "${NODES[@]}")
DATABASE_SOCKET="$STATE/mariadb/socket"
LINK=/etc/slurm/slurm.conf
export SLURM_CONF="$STATE/etc/slurm.conf"

say() { echo "testbed: $*"; }
fail() {
    echo "testbed: $*" >&2
    exit 1
}

check_place() {
    [[ $EUID == 0 ]] || fail "the Slurm testbed needs root: its nodes start processes as other users."
    [[ $STATE == /* && $STATE != / ]] || fail "BIRDSD_TESTBED must be an absolute folder, not '$STATE'."
    [[ $STATE =~ ^[A-Za-z0-9/._-]+$ ]] || fail "BIRDSD_TESTBED may have only letters, digits and . _ - /, not '$STATE'."
    # A socket's path may have 107 characters, and slurmd puts NODE/NODE_JOB.STEP below spool/.
    ((${#STATE} <= 60)) || fail "BIRDSD_TESTBED is too long for the sockets below it (at most 60 characters): '$STATE'."
}

# One script at a time. The daemons must not inherit this descriptor, or the lock would outlive the script.
lock() {
    mkdir -p "$STATE"
    exec 9>"$STATE/lock"
    flock -w 120 9 || fail "another up.sh or down.sh has been at work in $STATE for two minutes."
}

# wait_for SECONDS COMMAND...: true as soon as the command succeeds, false after that many seconds.
wait_for() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || return 1
        sleep 0.2
    done
}

# MariaDB runs as mysql, which may write in its own folder only.
pid_file() { if [[ $1 == mariadbd ]]; then echo "$STATE/mariadb/pid"; else echo "$STATE/run/$1.pid"; fi; }
program_of() { case $1 in n[1-4]) echo slurmd ;; *) echo "$1" ;; esac; }

# The pid of a daemon of this testbed, or nothing. Pids are used again by the kernel: a pid file counts only
# if the process carries our mark in its environment and is the program it should be.
pid_of() {
    local pid
    pid="$(cat "$(pid_file "$1")" 2>/dev/null)" && [[ -n $pid ]] || return 1
    [[ "$(cat "/proc/$pid/comm" 2>/dev/null)" == "$(program_of "$1")" ]] || return 1
    has_mark "$pid" "BIRDSD_TESTBED_DAEMON=$STATE:$1" || return 1
    echo "$pid"
}

alive() { pid_of "$1" >/dev/null; }

# Whether a process was started with all these NAME=VALUE in its environment.
has_mark() {
    local pid=$1 environment mark
    shift
    environment="$(tr '\0' '\n' 2>/dev/null <"/proc/$pid/environ")" || return 1
    for mark in "$@"; do grep -qxF -- "$mark" <<<"$environment" || return 1; done
}

# SIGKILL for every process of this testbed's jobs on one node: the slurmstepds, which inherit slurmd's mark
# (their title overwrites the front of the environment, so the mark comes last), and the tasks, which Slurm
# itself marks. Both outlive a slurmd that was killed. The slurmstepds go first: they would report the end of
# their tasks to srun, and then the job would have failed instead of having lost its node.
end_jobs_on() {
    local folder pid steps=() tasks=()
    for folder in /proc/[0-9]*; do
        pid=${folder#/proc/}
        [[ $pid != "$$" ]] || continue
        if [[ "$(cat "$folder/comm" 2>/dev/null)" == slurmstepd ]]; then
            has_mark "$pid" "BIRDSD_TESTBED_DAEMON=$STATE:$1" && steps+=("$pid")
        elif has_mark "$pid" "SLURM_CLUSTER_NAME=$CLUSTER" "SLURMD_NODENAME=$1"; then
            tasks+=("$pid")
        fi
    done
    for pid in "${steps[@]}" "${tasks[@]}"; do kill -KILL "$pid" 2>/dev/null || true; done
}

# launch NAME COMMAND...: with a clean environment, our mark, and no descriptor of ours.
launch() {
    local name=$1
    shift
    rm -f "$(pid_file "$name")"
    (
        cd "$STATE"
        exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
            "SLURM_CONF=$SLURM_CONF" "MYSQL_UNIX_PORT=$DATABASE_SOCKET" "BIRDSD_TESTBED_DAEMON=$STATE:$name" \
            setsid "$@" </dev/null >>"$STATE/log/$name.out" 2>&1 9>&-
    )
}

start_daemon() {
    local name=$1
    alive "$name" && return 0
    case $name in
        munged)
            rm -f "$STATE/munge/munge.socket"*
            launch "$name" munged --num-threads=10 --key-file="$STATE/munge/key" --socket="$STATE/munge/munge.socket" \
                --pid-file="$STATE/run/munged.pid" --log-file="$STATE/log/munged.log" --seed-file="$STATE/munge/seed"
            ;;
        mariadbd)
            # Not the system's: a folder of its own, no network, small, and no sync to disk for data of an hour.
            launch "$name" setsid --fork mariadbd --no-defaults --user=mysql --datadir="$STATE/mariadb/data" --skip-networking \
                --socket="$DATABASE_SOCKET" --pid-file="$STATE/mariadb/pid" --log-error="$STATE/log/mariadbd.log" \
                --innodb-buffer-pool-size=64M --innodb-log-file-size=32M --innodb-lock-wait-timeout=900 \
                --innodb-flush-log-at-trx-commit=0 --skip-log-bin
            ;;
        slurmdbd) launch "$name" slurmdbd ;;
        slurmctld) launch "$name" slurmctld ;;
        n[1-4]) launch "$name" slurmd -N "$name" ;;
        *) fail "there is no daemon '$name'; there are: ${DAEMONS[*]}" ;;
    esac || {
        say "$name would not start:"
        show_log "$name"
        return 1
    }
    if ! wait_for 60 ready "$name"; then
        say "$name did not become ready within a minute:"
        show_log "$name"
        return 1
    fi
}

ready() {
    alive "$1" || return 1
    case $1 in
        munged) munge --socket="$STATE/munge/munge.socket" --no-input ;;
        mariadbd) mariadb --no-defaults --socket="$DATABASE_SOCKET" --execute "select 1" ;;
        slurmdbd) timeout 10 sacctmgr --noheader list cluster ;;
        slurmctld) timeout 10 scontrol ping | grep -q "is UP" ;;
    esac
}

gone() { [[ ! -e /proc/$1 || "$(cut -d' ' -f3 "/proc/$1/stat" 2>/dev/null)" =~ ^Z?$ ]]; }

# end_daemon NAME SIGNAL SECONDS: send the signal and wait; SIGKILL when it takes longer than that. It is the
# process that is waited for: slurmctld removes its pid file long before it ends.
end_daemon() {
    local pid
    pid="$(pid_of "$1")" || return 0
    kill "-$2" "$pid" 2>/dev/null || true
    if ! wait_for "$3" gone "$pid"; then
        kill -KILL "$pid" 2>/dev/null || true
        wait_for 5 gone "$pid" || fail "$1 (process $pid) cannot be ended."
    fi
    rm -f "$(pid_file "$1")"
}

show_log() {
    local file
    for file in "$STATE/log/$1.out" "$STATE/log/$1.log"; do
        [[ ! -s $file ]] || sed "s|^|    $1: |" <(tail -n 15 "$file")
    done
}
