"""One merge by dlt, as a program of the environment in which dlt is installed: it imports nothing of this project.

Usage: dlt_load.py DATABASE_URL FILE PIPELINES_FOLDER. Prints the seconds of the pipeline's run.
"""

import sys
import time
from collections.abc import Iterator

import dlt
import pyarrow as pa
import pyarrow.csv

BLOCK_BYTES = 16 << 20


def main() -> None:
    """Loads the contacts of a CSV file with ids into the table `contacts` of the dataset `bench`."""
    url, file, folder = sys.argv[1:]
    contacts = dlt.resource(
        read(file),
        name="contacts",
        primary_key=("organization_id", "external_id"),
        write_disposition={"disposition": "merge", "strategy": "upsert"},
    )
    pipeline = dlt.pipeline(
        "bench",
        pipelines_dir=folder,
        destination=dlt.destinations.postgres(credentials=url),
        dataset_name="bench",
    )
    began = time.perf_counter()
    pipeline.run(contacts, loader_file_format="csv").raise_on_failed_jobs()
    print(time.perf_counter() - began)


def read(file: str) -> Iterator[pa.Table]:
    """The contacts with their organization, in parts."""
    names = pa.csv.open_csv(file).schema.names
    reader = pa.csv.open_csv(
        file,
        read_options=pa.csv.ReadOptions(block_size=BLOCK_BYTES),
        convert_options=pa.csv.ConvertOptions(
            column_types={name: pa.bool_() if name == "is_primary" else pa.string() for name in names},
            strings_can_be_null=True,
        ),
    )
    for batch in reader:
        organization = pa.array(["bench"] * len(batch), pa.string())
        yield pa.table([organization, *batch.columns], names=["organization_id", *names])


if __name__ == "__main__":
    main()
