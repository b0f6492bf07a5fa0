"""The shell lines of a batch script around srun: what runs on the node before and after Python.

A guard in plain shell counts the starts of a submission and ends one that gets nowhere, even where Slurm
requeues the job on its own or Python cannot be started. Values are quoted in one place, `shell_value`:
variables are expanded by the shell, and nothing else in a value is executed.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from birdsd.errors import BadValue
from birdsd.runs.allocations import SUBMISSION_VARIABLE, Submission
from birdsd.runs.starts import SUBMITIT_FOLDER, silent_limit

# Tells libraries that there is no internet, so that they fail at once and not after minutes.
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "WANDB_MODE": "offline",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
# $NAME, ${NAME}, ${NAME:-word}, ${NAME:+word}; \$ is a dollar sign.
_VARIABLE = re.compile(
    r"\\\$|\$(?:(?P<plain>[A-Za-z_]\w*)|\{(?P<name>[A-Za-z_]\w*)(?P<rest>:[-+][^{}$`\"\\]*)?\})", re.ASCII
)

_GUARD = r"""
birdsd_part=${SLURM_ARRAY_TASK_ID:+-$SLURM_ARRAY_TASK_ID}
birdsd_starts=$birdsd_run/submitit/$birdsd_submission$birdsd_part.starts
birdsd_name=${SLURM_ARRAY_TASK_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
birdsd_name=${birdsd_name:-$SLURM_JOB_ID}.${SLURM_RESTART_COUNT:-0}

birdsd_reached() {  # progress that outlives an allocation
    local path best=0
    if [ "$birdsd_job" = train ]; then
        for path in "$birdsd_run"/checkpoints/*/COMMIT.json; do
            path=${path%/COMMIT.json} path=${path##*/}
            case $path in *[!0-9]*) ;; *) best=$path ;; esac
        done
    else
        best=$(cat "$birdsd_run"/allocations/*${birdsd_part/-/_}.*/{heartbeat,end}.json 2>/dev/null |
            sed -n 's/^ *"position": *\([0-9]*\).*/\1/p' | sort -n | tail -n 1)
    fi
    echo "${best:-0}"
}

birdsd_stop() {  # REASON STATUS CODE: end this submission, and record why
    echo "birdsd: this submission will not continue: $1"
    printf '{"time": %s, "event": "chain stopped", "reason": "%s", "code": "%s", "job_id": "%s"}\n' \
        "$(date +%s.%N)" "$1" "$3" "${birdsd_name%.*}" >>"$birdsd_run/events/batch-$birdsd_name.jsonl"
    local job
    while read -r job; do
        case $job in '' | *[!0-9]*) ;; *) [ "$job" -le "${SLURM_JOB_ID:-0}" ] || scancel "$job" ;; esac
    done <"$birdsd_run/submitit/$birdsd_submission.jobs"
    exit "$2"
}

birdsd_begin() {  # count the starts that came to nothing; too many end the submission
    local word name reached now idle=0
    now=$(birdsd_reached)
    birdsd_silent=0
    while read -r word name reached _; do
        [ "$word" = begin ] || continue
        if [ "$reached" = "$now" ]; then idle=$((idle + 1)); else idle=0; fi
        if [ -e "$birdsd_run/allocations/$name/allocation.json" ] ||
            [ -e "$birdsd_run/allocations/$name/end.json" ]; then
            birdsd_silent=0
        else
            birdsd_silent=$((birdsd_silent + 1))
        fi
    done < <(cat "$birdsd_starts" 2>/dev/null)
    # Where nothing can be recorded, Slurm's own count must do.
    echo "begin $birdsd_name $now" >>"$birdsd_starts" || idle=${SLURM_RESTART_COUNT:-0}
    [ "$birdsd_silent" -lt "$birdsd_silent_limit" ] ||
        birdsd_stop "birdsd did not start in $birdsd_silent allocations in a row" 1 did-not-start
    [ "$idle" -lt "$birdsd_idle_limit" ] ||
        birdsd_stop "$idle allocations in a row brought nothing new beyond $now" 1 no-progress
}

birdsd_end() {  # STATUS: decide what comes next, in Python if it can be started
    trap - EXIT
    set +eu
    echo "end $birdsd_name $1" >>"$birdsd_starts"
    (cd "$birdsd_code" && PYTHONPATH=$birdsd_code${PYTHONPATH:+:$PYTHONPATH} \
        exec "$birdsd_python" -m birdsd.cluster.next_allocation "$birdsd_run" "$1")
    local status=$?
    case $status in 0 | 130 | 137 | 143) exit "$1" ;; esac  # done, or ended by Slurm after the handover
    if [ "$birdsd_hand_over" = chain ] && [ $((birdsd_silent + 1)) -lt "$birdsd_silent_limit" ]; then
        echo "birdsd: cannot be started on ${SLURMD_NODENAME:-this node} (status $status); the next job tries"
        exit "$1"
    fi
    birdsd_stop "birdsd cannot be started on ${SLURMD_NODENAME:-this node} (status $status)" "$1" cannot-start
}

mkdir -p "$birdsd_run/events"
birdsd_begin
trap 'birdsd_end $?' EXIT
"""


def setup_lines(submission: Submission, run_folder: Path) -> list[str]:
    """Shell lines before Python starts: the guard, modules, the site's setup, variables, the code
    snapshot."""
    site = submission.site
    lines = _guard(submission, run_folder)
    # A site, or the user's shell, may have set NONE, which leaves ranks without any environment.
    lines.append("export SLURM_EXPORT_ENV=ALL")
    lines += [f"module load {shell_value(str(name))}" for name in site["modules"]]
    lines += [str(line) for line in site["setup"]]
    lines += [f"export {name}={shell_value(value)}" for name, value in environment(submission).items()]
    if site["scratch"]:
        # The site's variable is expanded by the shell, on the node where the job runs.
        lines.append(f'export BIRDSD_SCRATCH="{_shell_path(str(site["scratch"]))}"')
    lines.append(f"export PYTHONPATH={shlex.quote(submission.snapshot)}${{PYTHONPATH:+:$PYTHONPATH}}")
    # `python -m` searches the working directory first, which may be a checkout that was edited since.
    lines.append(f"cd {shlex.quote(submission.snapshot)}")
    # The script itself must survive the warning: it still has to start the next allocation.
    return [*lines, "trap : TERM USR2"]


def teardown_lines() -> list[str]:
    """Shell lines after Python has ended. A setup that exits early gets here too, by the trap on EXIT."""
    return ["birdsd_end $?"]


def _guard(submission: Submission, run_folder: Path) -> list[str]:
    site = submission.site
    values = {
        "birdsd_run": shlex.quote(str(Path(run_folder).resolve())),
        "birdsd_python": shell_value(submission.python),
        "birdsd_code": shlex.quote(submission.snapshot),
        "birdsd_submission": shlex.quote(submission.id),
        "birdsd_job": shlex.quote(submission.job),
        "birdsd_hand_over": shlex.quote(str(site["hand_over"])),
        # The script cannot tell the progress of other jobs: only one that is restarted for ever ends here.
        "birdsd_idle_limit": str(int(site["max_idle_allocations"]) * (1 if submission.job == "train" else 4)),
        "birdsd_silent_limit": str(silent_limit(site)),
    }
    return [*(f"{name}={value}" for name, value in values.items()), *_GUARD.strip().split("\n")]


def environment(submission: Submission) -> dict[str, str]:
    """The environment variables of a site, as its file has them: `$NAME` is not expanded yet."""
    site = submission.site
    values = dict(OFFLINE) if site["offline"] else {}
    if site["proxy"]:
        values.update({name: str(site["proxy"]) for name in ("http_proxy", "https_proxy")})
    values.update({str(name): "" if v is None else str(v) for name, v in site["environment"].items()})
    values[SUBMISSION_VARIABLE] = submission.id
    return values


def shell_value(text: str) -> str:
    r"""A value of a site's file as a shell word.

    $NAME, ${NAME}, ${NAME:-word} and ${NAME:+word} are expanded by the shell where the job runs; everything
    else is literal, commands in $() or backticks too. \$ is a dollar sign.
    """
    if not _VARIABLE.search(text):
        return shlex.quote(text)
    parts, end = [], 0
    for match in _VARIABLE.finditer(text):
        parts += [_in_double_quotes(text[end : match.start()]), match.group()]
        end = match.end()
    return '"' + "".join([*parts, _in_double_quotes(text[end:])]) + '"'


def _in_double_quotes(text: str) -> str:
    return re.sub(r'([\\"$`])', r"\\\1", text)


def resolved(text: str, variables: Mapping[str, str]) -> str:
    """The expansion of `shell_value(text)` with these variables, for processes that no shell starts."""

    def value(match: re.Match[str]) -> str:
        if match.group() == "\\$":
            return "$"
        content, rest = variables.get(match["plain"] or match["name"], ""), match["rest"] or ""
        if rest.startswith(":-"):
            return content or rest[2:]
        return rest[2:] if rest and content else "" if rest else content

    return _VARIABLE.sub(value, text)


def _shell_path(text: str) -> str:
    if not re.fullmatch(r"[\w./${}@:+-]*", text):
        raise BadValue(
            f"site.scratch is {text!r}", "it is a path, which may name variables", "e.g. site.scratch=$TMPDIR"
        )
    return text


def jobs_file(run_folder: Path, submission_id: str) -> Path:
    """The file of a submission's job ids, one a line, for the guard's shell."""
    return Path(run_folder) / SUBMITIT_FOLDER / f"{submission_id}.jobs"


# Options of sbatch that birdsd sets itself, and the way to get the same from birdsd.
_OURS = {
    "array": "use array=N",
    "nodes": "use nodes=N",
    "output": "`birdsd logs` shows where the log is",
    "error": "`birdsd logs` shows where the log is",
    "open-mode": "`birdsd logs` shows where the log is",
    "signal": "use site.signal_lead_s=SECONDS",
    "wrap": "submit a job of birdsd",
    "requeue": "use site.hand_over=requeue",
    "no-requeue": "use site.hand_over=chain, resubmit or manual",
    "dependency": "use site.hand_over=chain",
}


def check_words(site: Mapping[str, Any], *paths: str) -> None:
    """Refuse values that would break out of their line of the script."""
    named = {f"site.{key}": site[key] for key in ("partition", "account", "qos", "constraint", "gpu_type")}
    named.update({f"site.sbatch.{key}": value for key, value in site["sbatch"].items()})
    for name, value in [*named.items(), *(("the folder", path) for path in paths)]:
        if any(ord(c) < 32 for c in str(value or "")):
            raise BadValue(f"{name} is {str(value)!r}", "it must fit on one line of the job script")
    for key in site["sbatch"]:
        if way := _OURS.get(str(key).replace("_", "-")):
            raise BadValue(
                f"site.sbatch.{key} is {site['sbatch'][key]!r}", "birdsd relies on its own value there", way
            )
        if not re.fullmatch(r"[A-Za-z][\w-]*", str(key)):
            raise BadValue(
                f"site.sbatch names {str(key)!r}", "its keys are long options of sbatch", "e.g. mail-type"
            )
