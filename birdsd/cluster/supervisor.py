"""The old name of `birdsd.cluster.local`, kept for one release.

An older birdsd starts `python -m birdsd.cluster.supervisor` for site=local, and a code snapshot may be newer.
"""

import runpy

if __name__ == "__main__":
    runpy.run_module("birdsd.cluster.local", run_name="__main__", alter_sys=True)
