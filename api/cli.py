"""The console script `embedstore`: the library's commands, and `serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embedstore.cli import StorePath, app, errors_in_one_line

__all__ = ["app"]


@app.command()
def serve(
    store: StorePath,
    probes: Annotated[
        Path | None, typer.Option(help="A run of `probe grid`, or a folder of saved probes.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but loopback needs an API key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8000,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            metavar="BACKBONE=DIR", help="Weights to embed new sequences with; may be repeated."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Serve the embeddings of STORE, and predictions of probes, over HTTP.

    EMBEDSTORE_API_KEYS holds the API keys, with commas between; without any, only this machine is
    served. EMBEDSTORE_MAX_RESPONSE_BYTES, EMBEDSTORE_MAX_SEQUENCES and EMBEDSTORE_MAX_LETTERS set
    the limits of one request. Ctrl-C and SIGTERM end it with exit code 0.

    Example: embedstore serve genes.store --probes run --port 8000
    """
    import logging
    import os

    from api.server import serve as run
    from api.settings import Settings, parse_weights

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    with errors_in_one_line():
        run(
            Settings.from_environment(
                os.environ,
                store=store,
                probes=probes,
                host=host,
                port=port,
                weights=parse_weights(weights or []),
                device=device,
            )
        )
