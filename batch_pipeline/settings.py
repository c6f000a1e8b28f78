"""Settings: environment variables ``BATCH_…``, read and checked once per process.

`Settings` defines their names, defaults and units. The README's table repeats them; a test compares the two.
"""

import json
import re
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from batch_pipeline.errors import SettingError

_RECORDS_OF = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}/[a-z]+")
_OWNER = re.compile(r"team:[A-Za-z0-9_-]+|[^@\s]+@[^@\s]+\.[^@\s.]+")

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


class Settings(BaseSettings):
    """Every setting of a deployment. Sizes are in bytes and times in seconds unless the name says otherwise."""

    model_config = SettingsConfigDict(env_prefix="BATCH_", extra="ignore", frozen=True)

    database_url: SecretStr | None = Field(None, description="PostgreSQL, any libpq URL: postgresql://…")
    api_database_url: SecretStr | None = Field(
        None, description="The same database for the API, with role bp_api; default: database_url"
    )
    api_row_security: bool = Field(
        True, description="Whether the API refuses a role that reads every organization's rows (on or off)"
    )
    storage_url: str | None = Field(None, description="Bucket and prefix: s3://bucket/prefix")
    storage_public_endpoint: str | None = Field(
        None, description="Endpoint of storage for callers, if it differs from ours"
    )

    max_items: int = Field(50_000_000, gt=0, description="Items per batch")
    max_upload_bytes: int = Field(10 * GIB, gt=0, description="Size of an upload as stored")
    max_decompressed_bytes: int = Field(50 * GIB, gt=0, description="Size of an upload after decompression")
    max_decompression_ratio: int = Field(
        200, gt=0, description="Size of an upload after decompression, as a multiple of its size as stored"
    )
    max_columns: int = Field(500, gt=0, description="Columns of a flat file, or distinct fields of JSON items")
    max_cell_bytes: int = Field(MIB, gt=0, description="Size of one cell")
    max_item_bytes: int = Field(4 * MIB, gt=0, description="Size of one item")
    max_json_depth: int = Field(32, gt=0, description="Nesting of JSON")
    max_inline_bytes: int = Field(100_000_000, gt=0, description="Size of the body of an API call")
    max_sidecar_bytes: int = Field(MIB, gt=0, description="Size of an inbox file's options (….options.json)")
    sync_max_items: int = Field(1_000, gt=0, description="Items of a batch in mode sync")
    sync_max_bytes: int = Field(1_000_000, gt=0, description="Size of the payload of a batch in mode sync")
    retention_days: int = Field(
        30, gt=0, description="Days that a batch's files (upload, artifacts, work) are kept after its end"
    )
    plan_hours: int = Field(24, gt=0, le=24 * 365, description="Hours that a plan can be applied after it was made")
    changes: bool = Field(True, description="Batches log what they change (on or off); needs PostgreSQL 18")
    changes_days: int = Field(30, gt=0, description="Days that the log of changes is kept")
    mapping_days: int = Field(400, gt=0, description="Days that a column mapping is remembered after its last use")
    run_retention_days: int = Field(30, gt=0, description="Days that Dagster's finished runs and their events are kept")

    timeout_seconds: int = Field(3600, gt=0, description="Running time of one attempt, waiting not counted")
    reruns: int = Field(
        3, ge=0, le=100, description="How often a batch that lost its worker, the database or storage runs again"
    )
    rerun_pause_seconds: float = Field(
        10.0,
        gt=0,
        le=24 * 3600,
        allow_inf_nan=False,
        description="Pause before the first of these re-runs; each further pause is six times as long, at most 300",
    )
    sync_timeout_seconds: int = Field(60, gt=0, description="Running time of a batch in mode sync")
    sync_turn_seconds: float = Field(
        30.0, gt=0, allow_inf_nan=False, description="How long a call in mode sync waits for its turn"
    )
    sync_workers: int = Field(2, ge=1, le=64, description="Processes of each API process that run batches in mode sync")
    mixed_wait_seconds: float = Field(
        30.0, gt=0, allow_inf_nan=False, description="How long a call in mode mixed waits for validation"
    )
    upload_url_seconds: int = Field(3600, ge=1, le=7 * 24 * 3600, description="Validity of an upload URL")
    download_url_seconds: int = Field(3600, ge=1, le=7 * 24 * 3600, description="Validity of a download URL")
    api_processes: int = Field(
        1, ge=1, le=64, description="Processes of `batch-pipeline api`, which answer calls on one port"
    )
    api_requests_per_minute: int = Field(
        6000, gt=0, description="API calls of one organization per API process; also the size of a burst"
    )
    log_format: Literal["text", "json"] = Field("text", description="Format of the logs of all processes: text or json")
    metrics: bool = Field(True, description="The API answers GET /metrics, which needs no key (on or off)")
    dagster_url: str | None = Field(
        None, description="Address of the Dagster webserver, with which the API launches runs at once"
    )
    api_url: str | None = Field(None, description="Address of the API for people; run pages link to errors files there")
    rejected_share: float = Field(
        0.1, ge=0, le=1, allow_inf_nan=False, description="Share of rejected items above which `rejected_rows` warns"
    )
    fresh_hours: Annotated[dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]], NoDecode] = Field(
        {}, description='Most hours between two files of an organization: {"acme/contact": 24}'
    )
    asset_owner: str = Field("team:operations", description="Owner of the assets in Dagster: team:name, or an address")
    chunk_rows: int = Field(50_000, ge=1, le=1_000_000, description="Items per chunk, read and written at once")
    # Measured: see decision 15.
    shared_staging_items: int = Field(
        200, ge=1, description="Most items of a batch that shares staging tables with others"
    )
    database_writers: int = Field(
        2, ge=1, le=32, description="Connections that one batch writes with, in each of its workers"
    )
    # Ten chunks: in a smaller batch most helpers would find none. Decision 18 has the figures.
    parallel_items: int = Field(
        500_000, ge=1, description="Fewest items of a batch on which several Celery workers work at once"
    )
    parallel_workers: int = Field(
        8, ge=1, le=64, description="Most workers of one batch, with the one that executes its run; 1: no others help"
    )
    inbox_quiet_seconds: float = Field(
        0.0,
        ge=0,
        allow_inf_nan=False,
        description="Minimum age of an inbox file; the embedded store, where files grow, uses 2",
    )
    inbox_files_per_tick: int = Field(500, gt=0, description="Most files that one sensor tick takes in")
    # A run is a process of 200 to 300 MB that uses one or two cores. Ten fit a small machine; a run that waits for its
    # turn uses only memory.
    concurrent_runs: int = Field(10, ge=1, description="Batches that run at once; read by the daemon")
    organization_runs: int = Field(
        4, ge=1, description="Batches of one organization that run at once; read by the daemon"
    )

    launcher: Literal["default", "celery"] = Field(
        "default", description="Who runs batches: the code server (default), or workers on any machines (celery)"
    )
    celery_broker_url: SecretStr | None = Field(
        None, description="Redis that brings runs to the workers: redis://…, rediss://… or redis+socket:///path"
    )
    webhook_networks: str | None = Field(
        None, description="Private networks that webhooks may call, also by http: 10.1.0.0/16,192.168.7.20/32"
    )
    alert_url: SecretStr | None = Field(
        None, description="Apprise addresses that are told of failed batches and of a silent daemon"
    )

    @field_validator("database_url", "api_database_url")
    @classmethod
    def _is_postgresql(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(("postgresql://", "postgres://")):
            raise ValueError("must begin with postgresql://")
        return value

    @field_validator("celery_broker_url")
    @classmethod
    def _is_redis(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not value.get_secret_value().startswith(("redis://", "rediss://", "redis+socket://")):
            raise ValueError("must begin with redis://, rediss:// or redis+socket://")
        return value

    @field_validator("fresh_hours", mode="before")
    @classmethod
    def _is_json(cls, value: object) -> object:
        try:
            return json.loads(value) if isinstance(value, str) else value
        except ValueError:
            raise ValueError('must be a JSON object: {"acme/contact": 24}') from None

    @field_validator("fresh_hours")
    @classmethod
    def _names_records(cls, value: dict[str, float]) -> dict[str, float]:
        wrong = [name for name in value if not _RECORDS_OF.fullmatch(name)]
        if wrong:
            raise ValueError('keys must have the form "organization/resource"')
        return value

    @field_validator("asset_owner")
    @classmethod
    def _is_owner(cls, value: str) -> str:
        if not _OWNER.fullmatch(value):
            raise ValueError("must have the form team:name or name@example.com")
        return value

    @field_validator("api_url", "dagster_url", "storage_public_endpoint")
    @classmethod
    def _is_http(cls, value: str | None) -> str | None:
        if value is not None:
            parts = urlsplit(value)
            if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
                raise ValueError("must have the form https://host or http://host:port")
        return value

    @field_validator("storage_url")
    @classmethod
    def _is_s3(cls, value: str | None) -> str | None:
        if value is not None:
            parts = urlsplit(value)
            if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment:
                raise ValueError("must have the form s3://bucket or s3://bucket/prefix")
        return value

    @field_validator("webhook_networks")
    @classmethod
    def _are_networks(cls, value: str | None) -> str | None:
        _networks(value)
        return value

    @property
    def allowed_webhook_networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """`webhook_networks` as networks."""
        return _networks(self.webhook_networks)

    def require_database_url(self) -> str:
        """The database URL, in libpq's form. Raises SettingError if it is not set."""
        if self.database_url is None:
            raise SettingError("BATCH_DATABASE_URL is not set: give it as postgresql://user@host/database")
        return self.database_url.get_secret_value()

    def require_api_database_url(self) -> str:
        """The database URL of the API. Raises SettingError if neither it nor the database URL is set."""
        if self.api_database_url is None:
            return self.require_database_url()
        return self.api_database_url.get_secret_value()

    def require_storage_url(self) -> str:
        """The storage URL. Raises SettingError if it is not set."""
        if self.storage_url is None:
            raise SettingError("BATCH_STORAGE_URL is not set: give it as s3://bucket/prefix")
        return self.storage_url

    def require_broker_url(self) -> str:
        """The broker's URL. Raises SettingError if it is not set."""
        if self.celery_broker_url is None:
            raise SettingError("BATCH_CELERY_BROKER_URL is not set: give it as redis://:password@host:6379/0")
        return self.celery_broker_url.get_secret_value()


def _networks(text: str | None) -> tuple[IPv4Network | IPv6Network, ...]:
    """The networks of a text. Raises ValueError."""
    try:
        return tuple(ip_network(part) for part in (text or "").replace(",", " ").split())
    except ValueError:
        raise ValueError("must be networks in CIDR form, separated by commas: 10.1.0.0/16") from None


def load_settings() -> Settings:
    """Reads the environment. Raises SettingError with one line that names each wrong variable, without its value."""
    try:
        return Settings()
    except ValidationError as error:
        wrong = "; ".join(
            f"BATCH_{'_'.join(str(part) for part in item['loc']).upper()}: {item['msg'].removeprefix('Value error, ')}"
            for item in error.errors(include_input=False, include_url=False)
        )
        raise SettingError(wrong) from None


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """The process's settings, read on first use."""
    return load_settings()
