"""deploy/kubernetes: the manifests are valid, and the chart's values say what dagster_home/dagster.yaml says."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from batch_pipeline.dagster_home import LOCATION_NAME, MODULE_NAME
from batch_pipeline.settings import Settings

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "deploy" / "kubernetes"
VALUES = "dagster-values.yaml"
KUBERNETES = "1.34"


def manifests() -> Iterator[dict[str, Any]]:
    for path in sorted(FOLDER.glob("*.yaml")):
        if path.name != VALUES:
            yield from yaml.safe_load_all(path.read_text())


def values() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / VALUES).read_text())
    return found


@pytest.mark.parametrize(
    "manifest", [pytest.param(item, id=f"{item['kind']}-{item['metadata']['name']}") for item in manifests()]
)
def test_each_manifest_is_valid(manifest: dict[str, Any]) -> None:
    kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_the_variables_are_settings_of_this_version() -> None:
    ours = {f"BATCH_{name.upper()}" for name in Settings.model_fields}
    given = {name for item in manifests() for name in {**item.get("data", {}), **item.get("stringData", {})}}

    assert {name for name in given if name.startswith("BATCH_")} <= ours


def test_what_pods_take_their_variables_from_exists() -> None:
    named = {(item["kind"], item["metadata"]["name"]) for item in manifests()}
    pods = [item["spec"]["template"]["spec"] for item in manifests() if "template" in item.get("spec", {})]
    sources = [source for pod in pods for container in pod["containers"] for source in container["envFrom"]]

    assert len(pods) == 3
    for source in sources:
        ((kind, reference),) = source.items()
        assert ({"configMapRef": "ConfigMap", "secretRef": "Secret"}[kind], reference["name"]) in named
    for part in (values()["dagsterDaemon"], values()["dagsterWebserver"]):
        assert {("ConfigMap", one["name"]) for one in part["envConfigMaps"]} <= named
        assert {("Secret", one["name"]) for one in part["envSecrets"]} <= named


def test_the_values_of_the_chart_say_what_dagster_yaml_says() -> None:
    chart, ours = values(), yaml.safe_load((REPOSITORY / "dagster_home" / "dagster.yaml").read_text())
    daemon = chart["dagsterDaemon"]

    launcher = chart["runLauncher"]["config"]["customRunLauncher"]
    assert {key: launcher[key] for key in ("module", "class")} == ours["run_launcher"]
    assert daemon["runCoordinator"]["config"]["customRunCoordinator"] == ours["run_coordinator"]
    assert _snake_case(daemon["runMonitoring"]) == ours["run_monitoring"]
    assert daemon["runRetries"] == ours["run_retries"]
    assert _snake_case(daemon["sensors"]) == ours["sensors"]
    assert _snake_case(daemon["schedules"]) == ours["schedules"]
    assert chart["telemetry"] == ours["telemetry"]


def test_the_code_location_keeps_its_name_in_the_chart() -> None:
    (deployment,) = values()["dagster-user-deployments"]["deployments"]
    (server,) = values()["dagsterWebserver"]["workspace"]["servers"]

    assert (server["host"], server["port"]) == (deployment["name"], deployment["port"])
    assert server["name"] == LOCATION_NAME
    assert deployment["dagsterApiGrpcArgs"] == ["--module-name", MODULE_NAME, "--location-name", LOCATION_NAME]


def test_the_chart_has_the_version_of_dagster_that_is_installed() -> None:
    pinned = re.search(r"^dagster==(\S+)", (REPOSITORY / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None
    assert f"--version {pinned[1]} " in (FOLDER / VALUES).read_text()


def _snake_case(node: dict[str, Any]) -> dict[str, Any]:
    return {re.sub(r"(?=[A-Z])", "_", key).lower(): value for key, value in node.items()}
