"""`make notebook`: run jobs/notebook.ipynb from top to bottom, in a folder of its own, on this machine.

    python -m tests.notebook [--quick] [--out FOLDER]

A shell command that fails does not fail its cell in Jupyter; here it does. The notebook in the checkout is
not touched: what it printed and drew goes to FOLDER/notebook.ipynb, if one is named.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from birdsd.files import environment

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "jobs" / "notebook.ipynb"
# Fewer samples than a reader would take, for a test among many.
QUICK = "EARS_SAMPLES, BIRDS_SAMPLES = 160, 480"
_CELL_S = 900


def strict(source: str) -> str:
    """The cell's source, in which a shell command that fails is an error; 75 means that a run was stopped."""
    lines, open_command = [], False
    for line in source.split("\n"):
        lines.append(line)
        open_command = open_command or line.lstrip().startswith("!")
        if open_command and not line.endswith("\\"):
            indent = re.match(r" *", next(x for x in reversed(lines) if x.lstrip().startswith("!")))
            assert indent is not None
            lines.append(f"{indent[0]}assert _exit_code in (0, 75), _exit_code")
            open_command = False
    return "\n".join(lines)


def execute(folder: Path, quick: bool = False, gpu: bool = False) -> Any:
    """Run the notebook in `folder`; returns it with its outputs. Raises where a cell fails."""
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(NOTEBOOK, as_version=4)
    for cell in book.cells:
        if cell.cell_type == "code":
            if quick:
                cell.source = re.sub(r"EARS_SAMPLES, BIRDS_SAMPLES = .*", QUICK, cell.source)
            cell.source = strict(cell.source)

    def say(cell: Any, cell_index: int, **more: Any) -> None:
        first = cell.source.strip().split("\n")[0]
        print(f"{time.strftime('%H:%M:%S')}  {cell_index + 1:2d}/{len(book.cells)}  {first[:90]}", flush=True)

    client = NotebookClient(
        book, timeout=_CELL_S, kernel_name="python3", resources={"metadata": {"path": str(folder)}},
        on_cell_start=say,
    )  # fmt: skip
    hidden = {} if gpu else {"CUDA_VISIBLE_DEVICES": ""}
    with environment({"JUPYTER_PLATFORM_DIRS": "1", **hidden}):
        client.execute()
    return book


def main() -> int:
    """The command; the exit status is 1 where a cell failed."""
    parser = argparse.ArgumentParser("python -m tests.notebook", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    parser.add_argument("--gpu", action="store_true", help="let it see the GPUs: hours, not minutes")
    parser.add_argument("--out", type=Path, help="keep what it made, and the notebook with its outputs")
    options = parser.parse_args()
    try:
        import nbformat
        from nbclient.exceptions import CellExecutionError
    except ImportError as error:
        print(f"{error.name} is not installed: pip install nbclient ipykernel", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.out or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        start = time.perf_counter()
        try:
            book = execute(folder.resolve(), options.quick, options.gpu)
        except CellExecutionError as error:
            print(error, file=sys.stderr)
            return 1
        if options.out:
            nbformat.write(book, folder / "notebook.ipynb")
        print(f"the notebook ran from top to bottom in {time.perf_counter() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
