"""URLs by which callers reach objects themselves: signed (v4), for one object and one method, and for a while."""

import os
import re
from urllib.parse import quote

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError

from batch_pipeline.errors import UnavailableError
from batch_pipeline.storage.store import Store

# AWS's own addresses have the bucket in the host name; other services are sure to know it in the path only.
_PATH = {"addressing_style": "path"}
_NOT_PLAIN = re.compile(r"[^A-Za-z0-9 ._()+-]")


class Presigner:
    """Signs URLs for the objects of a store; a URL's host is part of what is signed."""

    def __init__(self, store: Store, public_endpoint: str | None = None) -> None:
        endpoint = (
            public_endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
        )
        self._store = store
        self._client = botocore.session.get_session().create_client(
            "s3",
            endpoint_url=endpoint,
            config=Config(signature_version="s3v4", s3={} if endpoint is None else _PATH),
        )

    def put_url(self, key: str, *, seconds: int) -> str:
        """A URL that a file can be sent to by PUT, with any content type. Raises UnavailableError without keys."""
        return self._sign("put_object", key, {}, seconds)

    def get_url(self, key: str, *, seconds: int, file_name: str) -> str:
        """A URL that answers the object as a download of that name. Raises UnavailableError without keys."""
        return self._sign("get_object", key, {"ResponseContentDisposition": _attachment(file_name)}, seconds)

    def _sign(self, method: str, key: str, parameters: dict[str, str], seconds: int) -> str:
        bucket, _, name = self._store.path(key).partition("/")
        try:
            return str(
                self._client.generate_presigned_url(
                    method, Params={"Bucket": bucket, "Key": name, **parameters}, ExpiresIn=seconds
                )
            )
        except BotoCoreError as error:
            raise UnavailableError(
                "storage", f"URLs can't be signed ({type(error).__name__}): check the AWS_ variables."
            ) from error


def _attachment(file_name: str) -> str:
    """The header value of RFC 6266: the name in plain characters, and in full where that differs."""
    plain = _NOT_PLAIN.sub("_", file_name)
    value = f'attachment; filename="{plain}"'
    return value if plain == file_name else f"{value}; filename*=UTF-8''{quote(file_name, safe='')}"
