"""Settings: values from the environment, and one line for wrong ones."""

import os
from collections.abc import Iterator

import pytest

from batch_pipeline.errors import SettingError
from batch_pipeline.settings import GIB, MIB, Settings, get_settings, load_settings

HIDDEN = "hunter2-very-secret"


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith("BATCH_")]:
        monkeypatch.delenv(name)
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


def test_the_defaults_are_those_of_the_specification() -> None:
    settings = load_settings()

    assert settings.database_url is None
    assert settings.storage_url is None
    assert settings.max_items == 50_000_000
    assert settings.max_upload_bytes == 10 * GIB
    assert settings.max_decompressed_bytes == 50 * GIB
    assert settings.max_columns == 500
    assert settings.max_cell_bytes == MIB
    assert settings.max_item_bytes == 4 * MIB
    assert settings.max_json_depth == 32
    assert settings.retention_days == 30
    assert settings.timeout_seconds == 3_600


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("database_url", "postgresql://user@host/name", "postgresql://user@host/name"),
        ("database_url", "postgres:///name?host=/run/pg", "postgres:///name?host=/run/pg"),
        ("storage_url", "s3://bucket", "s3://bucket"),
        ("storage_url", "s3://bucket/a/b c", "s3://bucket/a/b c"),
        ("max_items", "10", 10),
        ("inbox_quiet_seconds", "0", 0.0),
        ("inbox_quiet_seconds", "1.5", 1.5),
        ("chunk_rows", "1000000", 1_000_000),
    ],
)
def test_a_variable_sets_the_setting_of_its_name(
    name: str, text: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"BATCH_{name.upper()}", text)

    found = getattr(load_settings(), name)

    assert (found.get_secret_value() if name == "database_url" else found) == value


NUMBERS = [name for name, field in Settings.model_fields.items() if field.annotation in (int, float)]


@pytest.mark.parametrize("text", ["", "many", "-1", "nan", "inf", "1e400", "1,000", "0x10"])
@pytest.mark.parametrize("name", NUMBERS)
def test_a_malformed_number_is_one_line_that_names_it(name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"BATCH_{name.upper()}", text)

    assert f"BATCH_{name.upper()}: " in _refusal()


MAY_BE_ZERO = ("inbox_quiet_seconds", "rejected_share", "reruns", "shared_staging_items")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("FRESH_HOURS", ""),
        ("FRESH_HOURS", "24"),
        ("FRESH_HOURS", '{"contact": 24}'),
        ("FRESH_HOURS", '{"acme/contact": 0}'),
        ("FRESH_HOURS", '{"acme/contact": "soon"}'),
        ("ASSET_OWNER", "nobody"),
        ("API_URL", "ftp://api.example.com"),
        ("REJECTED_SHARE", "1.5"),
    ],
)
def test_a_malformed_setting_of_dagsters_pages_is_named(name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"BATCH_{name}", text)

    assert f"BATCH_{name}" in _refusal()


@pytest.mark.parametrize("name", [name for name in NUMBERS if name not in MAY_BE_ZERO])
def test_limits_are_positive(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"BATCH_{name.upper()}", "0")

    assert f"BATCH_{name.upper()}: " in _refusal()


@pytest.mark.parametrize(
    "text",
    [
        "",
        HIDDEN,
        f"mysql://user:{HIDDEN}@host/name",
        f"postgresql+psycopg://user:{HIDDEN}@host/name",
        f" postgresql://user:{HIDDEN}@host/name",
        f"host=localhost password={HIDDEN}",
    ],
)
def test_a_malformed_database_url_is_named_without_its_value(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_DATABASE_URL", text)

    assert "BATCH_DATABASE_URL: must begin with postgresql://" in _refusal()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bucket",
        "https://bucket/prefix",
        "s3:bucket",
        "s3://",
        "s3:///prefix",
        "s3://bucket?x=1",
        "s3://bucket#x",
        "s3://[b",
    ],
)
def test_a_malformed_storage_url_is_named(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_STORAGE_URL", text)

    assert "BATCH_STORAGE_URL: " in _refusal()


def test_every_wrong_variable_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_DATABASE_URL", f"mysql://u:{HIDDEN}@h/n")
    monkeypatch.setenv("BATCH_STORAGE_URL", "bucket")
    monkeypatch.setenv("BATCH_MAX_ITEMS", "many")

    message = _refusal()

    for name in ("BATCH_DATABASE_URL", "BATCH_STORAGE_URL", "BATCH_MAX_ITEMS"):
        assert message.count(name) == 1


def test_a_missing_url_is_named_with_its_form() -> None:
    settings = load_settings()

    with pytest.raises(SettingError, match=r"BATCH_DATABASE_URL is not set.*postgresql://"):
        settings.require_database_url()
    with pytest.raises(SettingError, match=r"BATCH_STORAGE_URL is not set.*s3://"):
        settings.require_storage_url()


def test_printed_settings_do_not_show_the_database_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_DATABASE_URL", f"postgresql://user:{HIDDEN}@host/name")
    settings = load_settings()

    assert HIDDEN not in f"{settings} {settings!r} {settings.model_dump()} {settings.model_dump_json()}"
    assert HIDDEN in settings.require_database_url()


def test_other_variables_of_the_prefix_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCH_SOMETHING_ELSE", "x")

    assert load_settings().max_items == 50_000_000


def test_the_process_reads_its_settings_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first = get_settings()
    monkeypatch.setenv("BATCH_MAX_ITEMS", "5")

    assert get_settings() is first
    assert load_settings().max_items == 5


def test_every_setting_has_a_description() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def _refusal() -> str:
    with pytest.raises(SettingError) as caught:
        load_settings()
    message = caught.value.message
    assert caught.value.code == "invalid_setting"
    assert "\n" not in message
    assert HIDDEN not in message
    return message
