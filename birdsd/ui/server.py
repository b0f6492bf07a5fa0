"""`birdsd ui`: a page in this machine's browser to generate, play and save sounds."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from birdsd.errors import BadValue, NotFound, Unsupported
from birdsd.schema import GenerateConfig

HOST = "127.0.0.1"  # never anything else: the page is private to the user
FIRST_PORT, PORTS = 7860, 100
# Gradio would count its launches and ask for newer versions of itself.
_SILENCE = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}


def settled(run: str | None, settings: Sequence[str], runs: Path) -> GenerateConfig:
    """The initial configuration of the page; the newest finished model where none is named."""
    from birdsd import config

    composed: GenerateConfig = config.compose("generate", [f"runs={runs}", *settings])
    return replace(composed, run=run or composed.run or str(newest_model(runs)))


def newest_model(runs: Path) -> Path:
    """The export of the run below `runs` that finished last and can generate; `UserError` if none has."""
    found = [path.parent for path in Path(runs).glob("*/export/model_index.json")]
    if not found:
        raise NotFound(
            f"there is no finished model in {runs}",
            "the page needs one to generate sounds",
            "birdsd ui RUN, or a model folder; `birdsd run train ...` trains one",
        )
    return max(found, key=lambda folder: (folder.stat().st_mtime, folder.as_posix()))


def serve(config: GenerateConfig, port: int | None = None, browser: bool = True, wait: bool = True) -> Any:
    """Load the model and serve the page on this machine until it is interrupted.

    Without `wait` it returns the running page; its `close()` ends it. Raises `UserError` where gradio is not
    installed or the port is taken.
    """
    from birdsd.quiet import hush

    check_gradio()
    chosen = free_port(port)
    hush()
    for name, value in _SILENCE.items():
        os.environ.setdefault(name, value)
    for name in ("NO_PROXY", "no_proxy"):  # gradio looks for its own server, and a proxy would not find it
        os.environ[name] = ",".join(filter(None, (os.environ.get(name), HOST)))
    from birdsd.ui.session import UiSession

    print(f"loading {config.run}", flush=True)
    session = UiSession.open(config)
    from birdsd.ui import page as ui_page
    from birdsd.ui import theme

    page = ui_page.build(session)
    page.launch(
        server_name=HOST,
        server_port=chosen,
        share=False,
        inbrowser=browser,
        quiet=True,
        prevent_thread_lock=True,
        allowed_paths=[str(session.out.resolve())],
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        run_history=False,
        footer_links=[],
        max_file_size="500mb",
        **theme.look(),
    )
    print(f"birdsd ui: http://{HOST}:{chosen}  (this machine only; Ctrl+C stops it)", flush=True)
    if wait:
        page.block_thread()
    return page


def check_gradio() -> None:
    """`UserError` where gradio, an optional part, is missing or too old."""
    from importlib.metadata import PackageNotFoundError, version

    way_out = 'pip install "birdsd[ui]"'
    try:
        found = version("gradio")
    except PackageNotFoundError:
        raise Unsupported("gradio is not installed", "`birdsd ui` needs it", way_out) from None
    if int(found.split(".")[0]) < 6:
        raise Unsupported(f"gradio {found} is too old", "`birdsd ui` needs version 6 or newer", way_out)


def free_port(wanted: int | None) -> int:
    """The requested port if it is free, else the first free one; `UserError` if there is none."""
    if wanted is not None and not 1 <= wanted <= 65535:
        raise BadValue(f"--port {wanted}", "a port is a number from 1 to 65535", f"--port {FIRST_PORT}")
    candidates = [wanted] if wanted is not None else range(FIRST_PORT, FIRST_PORT + PORTS)
    for port in candidates:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError as error:
                reason = error.strerror or str(error)
                continue
            return port
    tried = (
        f"port {wanted}"
        if wanted is not None
        else f"every port from {FIRST_PORT} to {FIRST_PORT + PORTS - 1}"
    )
    raise Unsupported(f"{tried} cannot be used: {reason}", "", "--port ANOTHER, or leave --port out")
