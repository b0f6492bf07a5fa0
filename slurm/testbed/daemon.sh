#!/usr/bin/env bash
# Faults for tests:  daemon.sh start|stop|kill|powercut|status NAME
#   start      start it, if it does not run, and wait until it answers
#   stop       SIGTERM, and wait for its end
#   kill       SIGKILL: the daemon alone; the tasks of a killed node's jobs live on
#   powercut   (nodes only) SIGKILL for the node's daemon and every process of its jobs
#   status     print its pid, or fail
# NAME is munged, mariadbd, slurmdbd, slurmctld, n1, n2, n3 or n4.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" >&2
    exit 2
}

(($# == 2)) && [[ " ${DAEMONS[*]} " == *" $2 "* ]] || usage
check_place
[[ -d $STATE/run ]] || fail "there is no cluster in $STATE; up.sh starts one."
case $1 in
    start) start_daemon "$2" ;;
    stop) end_daemon "$2" TERM 30 ;;
    kill) end_daemon "$2" KILL 5 ;;
    powercut)
        [[ $2 == n[1-4] ]] || usage
        # The daemon first: it would report the end of its steps.
        end_daemon "$2" KILL 5
        end_jobs_on "$2"
        ;;
    status) pid_of "$2" || fail "$2 is not running." ;;
    *) usage ;;
esac
