"""The alert rules, the dashboard and the documents agree, and the rules fire when they should."""

import re

from monitoring_files import ALERTS, ROOT, expressions, names_in, panels, promtool, rules

ON_CALL = (ROOT / "docs" / "on-call.md").read_text(encoding="utf-8")
MONITORING = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")


def test_each_alert_says_what_is_wrong_and_leads_to_what_to_do() -> None:
    alerts = [rule for rule in rules() if "alert" in rule]
    headings = re.findall(r"^### (Alert \w+)$", ON_CALL, re.MULTILINE)
    anchors = {f"docs/on-call.md#{heading.lower().replace(' ', '-')}" for heading in headings}

    assert {rule["annotations"]["runbook_url"] for rule in alerts} == anchors
    for rule in alerts:
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["runbook_url"].endswith(f"-{rule['alert'].lower()}")
        assert f"| `{rule['alert']}` |" in MONITORING


def test_every_series_of_the_rules_and_the_dashboard_is_a_documented_metric() -> None:
    documented = set(re.findall(r"^\| `(batch_\w+)", MONITORING, re.MULTILINE))
    recorded = {rule["record"] for rule in rules() if "record" in rule}

    read = set().union(*map(names_in, expressions())) - recorded
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in read} <= documented
    assert len({panel["id"] for panel in panels()}) == len(panels())
    assert {panel["datasource"]["uid"] for panel in panels()} == {"${datasource}"}


def test_prometheus_accepts_the_rules_and_the_example() -> None:
    for arguments in (("check", "rules", str(ALERTS)), ("check", "config", str(ALERTS.with_name("prometheus.yaml")))):
        done = promtool(*arguments)
        assert done.returncode == 0, done.stderr


def test_each_alert_fires_when_it_should_and_not_before() -> None:
    tests = ROOT / "tests" / "monitoring" / "alerts.test.yaml"
    done = promtool("test", "rules", str(tests))
    assert done.returncode == 0, done.stderr
    tested = set(re.findall(r"alertname: (\w+)", tests.read_text()))
    assert tested == {rule["alert"] for rule in rules() if "alert" in rule}
