#!/usr/bin/env bash
# birdsd for a machine or a cluster without internet: wheels are gathered where there is some, and installed from
# a folder where there is none.
#
#   slurm/offline.sh has > has.txt                      there: which packages that machine has (then copy has.txt here)
#   slurm/offline.sh needs [has.txt]                    here: what birdsd needs beyond them, nothing is fetched
#   slurm/offline.sh gather wheels/ [has.txt]           here: the same as wheels, and birdsd itself
#   slurm/offline.sh install wheels/                    there: into the Python that is active, from that folder alone
#
# PyTorch and CUDA's libraries are never gathered: a machine with a GPU has those that fit its driver.
# Settings, from the environment: PYTHON (python3), FOR_PYTHON (3.12, that of the machine), EXTRAS (deepspeed;
# eightbit and others too), CONSTRAINTS (constraints.txt, the versions that are tested).
set -euo pipefail

here=$(cd "$(dirname "$0")/.." && pwd)
PYTHON=${PYTHON:-python3}
FOR_PYTHON=${FOR_PYTHON:-3.12}
EXTRAS=${EXTRAS-deepspeed}
CONSTRAINTS=${CONSTRAINTS:-$here/constraints.txt}

usage() {
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2
    exit 2
}

# NAME==VERSION a line: everything birdsd needs, directly or through others, that is neither PyTorch nor in $1.
# What needs what is read from the packages installed here, so birdsd's own set-up has to be done (make setup).
needed() {
    "$PYTHON" - "$here/pyproject.toml" "$CONSTRAINTS" "$FOR_PYTHON" "$EXTRAS" "${1:-}" <<'PYTHON'
import re
import sys
from importlib import metadata
from pathlib import Path

project, constraints, python, extras, has = sys.argv[1:]


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(path):
    lines = Path(path).read_text(encoding="utf-8").splitlines() if path else []
    found = (re.match(r"([\w.-]+)\s*==\s*([^\s;#]+)", line) for line in lines)
    return {plain(match[1]): match[2] for match in found if match}


try:
    from packaging.requirements import Requirement
except ImportError:
    sys.exit("offline.sh: the package `packaging` is not installed here; `make setup` brings it")
# A list inside [...] of the table: TOML that Python 3.10 cannot read by itself.
text = Path(project).read_text(encoding="utf-8")
lists = {name: re.findall(r'"([^"]+)"', body) for name, body in re.findall(r"^(\w+) = \[(.*?)\]$", text, re.M | re.S)}
# The machine's markers, not this one's.
there = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux",
         "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix",
         "implementation_name": "cpython", "platform_python_implementation": "CPython"}
pinned, present, found = pins(constraints), pins(has), {}
waiting = [Requirement(word) for word in lists["dependencies"]]
for extra in filter(None, re.split(r"[\s,]+", extras)):
    if extra not in lists:
        sys.exit(f"offline.sh: birdsd has no extra {extra}")
    waiting += [Requirement(word) for word in lists[extra]]
seen = set()
while waiting:
    one = waiting.pop()
    name = plain(one.name)
    if str(one) in seen or name == "torch" or re.match(r"nvidia|cuda|triton", name):
        continue
    seen.add(str(one))
    if name not in present or not one.specifier.contains(present[name], prereleases=True):
        found[name] = pinned.get(name, "")
    try:
        more = metadata.requires(one.name) or []
    except metadata.PackageNotFoundError:
        sys.exit(f"offline.sh: {one.name} is not installed here, so that what it needs is not known; `make setup`")
    for word in more:
        nested = Requirement(word)
        wanted = [{**there, "extra": extra} for extra in one.extras or {""}]
        if nested.marker is None or any(nested.marker.evaluate(where) for where in wanted):
            waiting.append(nested)
for name in sorted(found):
    print(f"{name}=={found[name]}" if found[name] else name)
PYTHON
}

# A wheel for the other machine; where there is only source, one built here, which must be pure Python.
fetch() {
    local folder=$1 package=$2 platforms=() number
    for number in 39 35 34 31 28 27 24 17; do platforms+=(--platform "manylinux_2_${number}_x86_64"); done
    platforms+=(--platform manylinux2014_x86_64 --platform manylinux1_x86_64)
    if "$PYTHON" -m pip download --quiet --no-deps --only-binary=:all: --implementation cp --python-version \
        "$FOR_PYTHON" "${platforms[@]}" --dest "$folder" "$package" 2>"$folder/.pip"; then
        return
    fi
    local built
    built=$(mktemp -d)
    if ! DS_BUILD_OPS=0 "$PYTHON" -m pip wheel --quiet --no-deps --wheel-dir "$built" "$package" 2>>"$folder/.pip"; then
        grep -v '^WARNING' "$folder/.pip" | tail -n 5 >&2
        echo "offline.sh: $package could be had neither as a wheel for Python $FOR_PYTHON nor be built here" >&2
        return 1
    fi
    if ! compgen -G "$built/*-none-any.whl" >/dev/null; then
        echo "offline.sh: $package has code that is compiled; build it on that machine: $(ls "$built")" >&2
        return 1
    fi
    mv "$built"/*.whl "$folder/"
}

case ${1:-} in
    has)
        "$PYTHON" -m pip list --format=freeze
        ;;
    needs)
        needed "${2:-}"
        ;;
    gather)
        folder=${2:-}
        [ -n "$folder" ] || usage
        mkdir -p "$folder"
        packages=$(needed "${3:-}")
        failed=0
        for package in $packages; do
            fetch "$folder" "$package" || failed=1
        done
        rm -f "$folder/.pip"
        if [ "${BIRDSD_WHEEL:-yes}" = yes ]; then # birdsd itself; not needed where a checkout is copied as well
            "$PYTHON" -m pip wheel --quiet --no-deps --wheel-dir "$folder" "$here"
        fi
        du -sh "$folder"
        exit $failed
        ;;
    install)
        folder=${2:-}
        [ -d "$folder" ] || usage
        # --no-deps: what is there already (PyTorch above all) stays as it is; `pip check` says what does not fit.
        "$PYTHON" -m pip install --quiet --no-index --no-deps --no-cache-dir ${TARGET:+--target "$TARGET"} "$folder"/*.whl
        "$PYTHON" -m pip check || echo "offline.sh: see above; birdsd may work all the same: birdsd doctor --deep" >&2
        ;;
    *)
        usage
        ;;
esac
