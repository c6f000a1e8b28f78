"""Our loader of botocore's files."""

import json
from pathlib import Path

import botocore
import pytest
from botocore.loaders import JSONFileLoader

from batch_pipeline.storage.service_files import ServiceFiles
from batch_pipeline.storage.store import s3_descriptions

DATA = Path(botocore.__file__).parent / "data"


@pytest.mark.parametrize("name", ["endpoints", "s3/2006-03-01/service-2", "s3/2006-03-01/endpoint-rule-set-1", "none"])
def test_a_file_is_what_botocore_reads_in_the_same_order(name: str) -> None:
    ours, botocores = (loader.load_file(str(DATA / name)) for loader in (ServiceFiles(), JSONFileLoader()))
    assert json.dumps(ours) == json.dumps(botocores)


def test_the_descriptions_of_s3_are_read_by_it() -> None:
    assert isinstance(s3_descriptions().file_loader, ServiceFiles)
