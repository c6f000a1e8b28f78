"""The command `api`: the HTTP service."""

from typing import Annotated

import typer

from batch_pipeline.cli.console import say
from batch_pipeline.cli.flags import DEFAULT_DATA_DIR, DataDir
from batch_pipeline.cli.interrupts import stopping_in_order
from batch_pipeline.cli.progress import step
from batch_pipeline.cli.session import servers
from batch_pipeline.errors import SettingError


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("api")(api)


def api(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=1, max=65535)] = 8000,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Serve the HTTP API until interrupted."""
    with stopping_in_order(), servers(data_dir):
        _require_free(host, port)
        with step("loading the API"):
            from batch_pipeline.api.app import serve

        say(f"The API listens on http://{host}:{port} (docs at /docs).")
        serve(host=host, port=port)


def _require_free(host: str, port: int) -> None:
    """Raises SettingError if the address can't be used, before the imports, which take seconds."""
    import socket

    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family[0], family[1]) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(family[4])
    except OSError as error:
        raise SettingError(f"{host}:{port} can't be used ({error.strerror}): choose another --host or --port") from None
