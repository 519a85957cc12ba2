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
        Path | None,
        typer.Option(help="A run of `probe grid`, a folder of runs, a sweep, or saved probes."),
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
    workers: Annotated[
        int, typer.Option(help="Processes that share the address; limits hold for each.")
    ] = 1,
    allow_no_keys: Annotated[
        bool, typer.Option("--allow-no-keys", help="Serve other machines without any API key.")
    ] = False,
) -> None:
    """Serve the embeddings of STORE, and predictions of probes, over HTTP.

    EMBEDSTORE_API_KEYS holds the API keys, with commas between; without any, only this machine is
    served. Other variables set limits, CORS, the form of the logs, and whether new embeddings are
    kept: docs/http.md lists them. Ctrl-C and SIGTERM end it with exit code 0, once requests under
    way are answered.

    Example: embedstore serve genes.store --probes run --port 8000
    """
    import os

    from api.logs import configure_logs
    from api.server import serve as run
    from api.settings import Settings, parse_weights

    with errors_in_one_line():
        settings = Settings.from_environment(
            os.environ,
            store=store,
            probes=probes,
            host=host,
            port=port,
            weights=parse_weights(weights or []),
            device=device,
            workers=workers,
            allow_no_keys=allow_no_keys,
        )
        configure_logs(settings.log_format)
        run(settings)
