"""`python -m batch_pipeline`: the command line."""

from batch_pipeline.cli.main import main

if __name__ == "__main__":
    main()
