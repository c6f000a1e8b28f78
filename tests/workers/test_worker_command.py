"""`batch-pipeline worker` without what it needs, and the launcher that the settings choose."""

import pytest
from crew import Redis
from dagster._core.launcher import DefaultRunLauncher

from batch_pipeline.cli.main import main
from batch_pipeline.errors import SettingError
from batch_pipeline.local.s3 import free_port
from batch_pipeline.orchestration.celery_launcher import CeleryLauncher
from batch_pipeline.orchestration.instance import open_instance
from batch_pipeline.settings import get_settings


@pytest.mark.parametrize(
    ("variables", "code", "said"),
    [
        ({}, 2, "BATCH_CELERY_BROKER_URL is not set"),
        (
            {"BATCH_CELERY_BROKER_URL": "amqp://user:hunter2@host"},
            2,
            "BATCH_CELERY_BROKER_URL: must begin with redis://",
        ),
        ({"BATCH_CELERY_BROKER_URL": f"redis://:hunter2@127.0.0.1:{free_port()}/0"}, 3, "The broker can't be reached"),
        ({"BATCH_CELERY_BROKER_URL": "redis+socket:///nowhere/redis"}, 3, "The broker can't be reached"),
    ],
)
@pytest.mark.usefixtures("system")
def test_a_worker_without_its_broker_is_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variables: dict[str, str],
    code: int,
    said: str,
) -> None:
    for name in ("BATCH_CELERY_BROKER_URL", "BATCH_LAUNCHER"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    with pytest.raises(SystemExit) as ended:
        main(["worker"])
    printed = capsys.readouterr()
    lines = [line for line in printed.err.splitlines() if not line.endswith(" …")]
    assert (ended.value.code, len(lines), printed.out) == (code, 1, "")
    assert said in lines[0]
    assert "hunter2" not in printed.err


@pytest.mark.usefixtures("system")
def test_a_setting_alone_chooses_the_launcher(redis_server: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    def choose(**variables: str) -> type[object]:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        get_settings.cache_clear()
        with open_instance() as instance:
            return type(instance.run_launcher)

    monkeypatch.delenv("BATCH_CELERY_BROKER_URL")
    assert choose(BATCH_LAUNCHER="default") is DefaultRunLauncher
    with pytest.raises(SettingError, match="BATCH_CELERY_BROKER_URL is not set"):
        choose(BATCH_LAUNCHER="celery")
    assert choose(BATCH_CELERY_BROKER_URL=redis_server.url) is CeleryLauncher
