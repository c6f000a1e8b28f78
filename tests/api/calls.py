"""Items and bodies that the tests of calls share."""

import base64

import pytest
from serving import Client

ADA = {"external_id": "crm-1", "name": "Ada", "email": "ada@example.com"}
WRONG = {"external_id": "crm-2", "name": "Alan", "email": "nowhere"}
# A body of more than 1 MiB is not kept in memory.
# In memory; in a file, read as one block; in a file, read as several.
sizes = pytest.mark.parametrize("size_bytes", [0, 1_200_000, 3_300_000], ids=["small", "1.2 MB", "3.3 MB"])


def data_url(content: bytes, kind: str = "text/csv") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def padded(body: bytes, size_bytes: int) -> bytes:
    """The body, with spaces before it where it is smaller."""
    return body.rjust(size_bytes)


def every_batch(client: Client) -> list[str]:
    return [batch["id"] for batch in client.get("/v1/batches", limit=100)["data"]]
