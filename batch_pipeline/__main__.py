"""`batch-pipeline`, and `python -m batch_pipeline`: the command line."""

import sys

from batch_pipeline.garbage import collect_nothing


def main() -> None:
    """Runs the command line. Ctrl-C during its import prints one line, as it does later."""
    collect_nothing()
    try:
        from batch_pipeline.cli.main import main as run_command
    except KeyboardInterrupt:
        sys.stderr.write("error: Interrupted before the end: run the command again.\n")
        sys.exit(1)
    run_command()


if __name__ == "__main__":
    main()
