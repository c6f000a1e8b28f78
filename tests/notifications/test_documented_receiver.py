"""The receiver in docs/webhooks.md accepts what is sent, once, and refuses what is forged."""

import asyncio
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook

PAGE = Path(__file__).parents[2] / "docs" / "webhooks.md"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - the example of the specification


def test_the_receiver_of_the_documentation_verifies_signatures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET)
    module: dict[str, Any] = {}
    exec(compile(program, PAGE.name, "exec"), module)  # noqa: S102 - the page's own example
    body = '{"type":"batch.completed","data":{"id":"batch_1"}}'
    now = datetime.now(UTC)
    headers = {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": f"v1,AAAA {Webhook(SECRET).sign('evt_1', now, body)}",
    }

    async def calls() -> list[int]:
        transport = httpx.ASGITransport(app=module["app"])
        async with httpx.AsyncClient(transport=transport, base_url="http://receiver") as client:
            return [
                (await client.post("/hooks/batches", content=content, headers=headers)).status_code
                for content in (body, body, body.replace("batch_1", "batch_2"))
            ]

    assert asyncio.run(calls()) == [204, 204, 400]
    assert capsys.readouterr().out == "batch.completed batch_1\n"
