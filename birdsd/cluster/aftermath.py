"""The old name of `birdsd.cluster.next_allocation`, kept for one release.

Batch scripts of jobs that were queued under it end with `python -m birdsd.cluster.aftermath`.
"""

import runpy

if __name__ == "__main__":
    runpy.run_module("birdsd.cluster.next_allocation", run_name="__main__", alter_sys=True)
