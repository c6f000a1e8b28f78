"""Presigned URLs (signature v4): callers read or write one object with one method until the URL expires."""

import os
import re
from urllib.parse import quote

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, NoCredentialsError

from batch_pipeline.errors import UnavailableError
from batch_pipeline.storage.store import Store, s3_descriptions

# AWS expects the bucket in the host name. Other services reliably accept it only in the path.
_PATH = {"addressing_style": "path"}
_UNSAFE_CHARACTER = re.compile(r"[^A-Za-z0-9 ._()+-]")


class Presigner:
    """Signs URLs for the objects of a store. The signature covers the host, hence `public_endpoint`."""

    def __init__(self, store: Store, public_endpoint: str | None = None) -> None:
        endpoint = (
            public_endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
        )
        self._store = store
        session = botocore.session.get_session()
        session.register_component("data_loader", s3_descriptions())
        self._credentials = session.get_credentials()
        self._client = session.create_client(
            "s3",
            endpoint_url=endpoint,
            config=Config(signature_version="s3v4", s3={} if endpoint is None else _PATH),
        )

    def require_credentials(self) -> None:
        """Raises UnavailableError if there are no AWS credentials. Much cheaper than to sign a URL."""
        try:
            if self._credentials is None:
                raise NoCredentialsError
            self._credentials.get_frozen_credentials()  # gets new ones where they have expired
        except BotoCoreError as error:
            raise _unsignable(error) from error

    def put_url(self, key: str, *, seconds: int) -> str:
        """A URL for a PUT with any content type. Raises UnavailableError if there are no AWS credentials."""
        return self._sign("put_object", key, {}, seconds)

    def get_url(self, key: str, *, seconds: int, file_name: str) -> str:
        """A URL for a GET that downloads as `file_name`. Raises UnavailableError if there are no AWS credentials."""
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
            raise _unsignable(error) from error


def _unsignable(error: BotoCoreError) -> UnavailableError:
    return UnavailableError("storage", f"URLs can't be signed ({type(error).__name__}): check the AWS_ variables.")


def _attachment(file_name: str) -> str:
    """The Content-Disposition value of RFC 6266: an ASCII name, and the full name if it differs."""
    plain = _UNSAFE_CHARACTER.sub("_", file_name)
    value = f'attachment; filename="{plain}"'
    return value if plain == file_name else f"{value}; filename*=UTF-8''{quote(file_name, safe='')}"
