"""One call of a webhook: resolve the name, check its addresses, sign, send, and judge the answer."""

import asyncio
import ipaddress
import ssl
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import urlsplit

import httpx
from standardwebhooks import Webhook as Signer

from batch_pipeline.batches.deliveries import Claimed
from batch_pipeline.notifications.addresses import Address, Network, Resolver, is_in, is_public, resolve

TIMEOUT_SECONDS = 5.0  # of a call, with the look-up of the name
_RESOLVERS = 16  # threads; a look-up can't be cancelled, so a name server that hangs occupies them


@dataclass(frozen=True)
class Outcome:
    """What became of a call. `answer`: the HTTP status, None if there was none. `error`: why it failed, or None."""

    answer: int | None
    error: str | None = None


class Sender:
    """Calls webhooks. Safe for several event loops at once.

    Args:
        networks: private networks that may be called as well, also by http.
        timeout_seconds: of a call, in total.
        resolver: gives a name's addresses. It is asked once a call, and one of the checked addresses is called.
        certificates: which certificates to trust; default: certifi's, or those of SSL_CERT_FILE.
    """

    def __init__(
        self,
        networks: Sequence[Network] = (),
        *,
        timeout_seconds: float = TIMEOUT_SECONDS,
        resolver: Resolver = resolve,
        certificates: ssl.SSLContext | None = None,
    ) -> None:
        self._networks = tuple(networks)
        self._timeout_seconds = timeout_seconds
        self._resolver = resolver
        self._certificates = certificates or httpx.create_ssl_context()
        self._threads = ThreadPoolExecutor(_RESOLVERS, thread_name_prefix="resolver")

    def close(self) -> None:
        """Ends the threads of the resolver."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def send(self, claimed: Claimed) -> Outcome:
        """Sends the event. Never raises for what the receiver or the network does."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await self._send(claimed)
        except TimeoutError:
            return Outcome(None, f"No answer within {self._timeout_seconds:g} s.")

    async def _send(self, claimed: Claimed) -> Outcome:
        parts = urlsplit(claimed.url)
        host = str(parts.hostname)
        try:
            names = await asyncio.get_running_loop().run_in_executor(self._threads, self._resolver, host)
            addresses = [ipaddress.ip_address(name) for name in names]
        except OSError:
            addresses = []
        if not addresses:
            return Outcome(None, "The host's name has no address.")
        if not all(self._may_call(address, parts.scheme) for address in addresses):
            return Outcome(None, "The host's name leads to an address that webhooks may not call.")
        headers = {"Host": parts.netloc, "Content-Type": "application/json", "User-Agent": "batch-pipeline"}
        headers |= _signed(claimed)
        failed = Outcome(None, "No connection.")
        for address in addresses:
            shown = f"[{address}]" if address.version == 6 else str(address)
            url = parts._replace(netloc=shown if parts.port is None else f"{shown}:{parts.port}").geturl()
            try:
                return await self._post(url, headers, claimed.body, host)
            except httpx.ConnectError as error:
                failed = Outcome(None, _connect_error(error))
            except httpx.HTTPError:
                return Outcome(None, "The connection broke before an answer, or the answer is not HTTP.")
        return failed

    def _may_call(self, address: Address, scheme: str) -> bool:
        return is_in(address, self._networks) or (scheme == "https" and is_public(address))

    async def _post(self, url: str, headers: dict[str, str], body: str, host: str) -> Outcome:
        """Posts to the address in the URL. The certificate must be valid for `host`."""
        # A client for one call: a kept connection would be found by its address, although it was made for another name.
        async with (
            httpx.AsyncClient(verify=self._certificates, trust_env=False, timeout=None) as client,  # noqa: S113 - `send` limits it
            client.stream(
                "POST", url, content=body.encode(), headers=headers, extensions={"sni_hostname": host}
            ) as response,
        ):
            return _judge(response.status_code)  # the body is not read


def _signed(claimed: Claimed) -> dict[str, str]:
    """The headers of Standard Webhooks, with a signature by each valid secret."""
    now = datetime.now(UTC)
    signatures = [Signer(secret).sign(claimed.event_id, now, claimed.body) for secret in claimed.secrets]
    return {
        "webhook-id": claimed.event_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def _judge(status: int) -> Outcome:
    if 200 <= status < 300:
        return Outcome(status)
    if 300 <= status < 400:
        return Outcome(status, f"The receiver answered {status}; redirects are not followed.")
    return Outcome(status, f"The receiver answered {status}.")


def _connect_error(error: httpx.ConnectError) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"The receiver's certificate is refused: {cause.verify_message.rstrip('.')}."
        if isinstance(cause, ssl.SSLError):
            return "The receiver does not speak TLS as it must."
        cause = cause.__cause__ or cause.__context__
    return "No connection."
