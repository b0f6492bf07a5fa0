#!/usr/bin/env bash
# Stops the test cluster: its jobs, then its daemons, and nothing else. Its logs stay until the next start.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

no_jobs() { [[ -z "$(timeout 10 squeue --noheader)" ]]; }

check_place
if [[ ! -d $STATE ]]; then
    say "not running: there is no $STATE"
    exit 0
fi
lock
living=0
for name in "${DAEMONS[@]}"; do alive "$name" && ((living += 1)); done

if alive slurmctld && alive munged; then
    # Jobs end in the ordinary way where they can, so that their files are what a real cancel leaves.
    timeout 10 scancel --partition=normal,besteffort,urgent 2>/dev/null || true
    wait_for 12 no_jobs || true
fi
for ((i = ${#NODES[@]} - 1; i >= 0; i--)); do end_daemon "${NODES[i]}" TERM 10; done
# What a killed slurmd left behind.
for node in "${NODES[@]}"; do end_jobs_on "$node"; done
end_daemon slurmctld TERM 15
end_daemon slurmdbd TERM 15
end_daemon mariadbd TERM 30
end_daemon munged TERM 10
if [[ -L $LINK && "$(readlink "$LINK")" == "$SLURM_CONF" ]]; then rm -f "$LINK"; fi
if ((living)); then say "stopped; logs in $STATE/log"; else say "was not running"; fi
