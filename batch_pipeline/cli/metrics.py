"""The command `metrics`: the text of `GET /metrics`, for a pull without the API."""

import sys

import typer

from batch_pipeline.cli.flags import DEFAULT_DATA_DIR, DataDir
from batch_pipeline.cli.interrupts import stopping_in_order
from batch_pipeline.cli.progress import step
from batch_pipeline.cli.session import open_for_metrics


def add_to(app: typer.Typer) -> None:
    """Adds the command."""
    app.command("metrics")(metrics)


def metrics(data_dir: DataDir = DEFAULT_DATA_DIR) -> None:
    """Print the system's figures as Prometheus text, as the API's /metrics does.

    The API's own request times are without values here.
    """
    with stopping_in_order(), open_for_metrics(data_dir) as engine, step("reading the figures"):
        from batch_pipeline.metrics.calls import call_seconds
        from batch_pipeline.metrics.scraping import Scraper

        scraper = Scraper(engine, call_seconds())
        try:
            text = scraper.render()
        finally:
            scraper.close()
    sys.stdout.write(text.decode())
