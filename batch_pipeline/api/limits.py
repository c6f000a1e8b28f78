"""The rate limit of each organization: a token bucket, refilled evenly."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from batch_pipeline.api.envelope import RateLimitedError


@dataclass
class _Bucket:
    tokens: float
    at: float


class RateLimits:
    """The buckets of one process. A full bucket has the calls of one minute."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}

    def take(self, organization_id: str) -> None:
        """Counts a call. Raises RateLimitedError, with the seconds until the next is possible."""
        now = self._clock()
        bucket = self._buckets.setdefault(organization_id, _Bucket(self._per_minute, now))
        per_second = self._per_minute / 60
        bucket.tokens = min(self._per_minute, bucket.tokens + (now - bucket.at) * per_second)
        bucket.at = now
        if bucket.tokens < 1:
            seconds = math.ceil((1 - bucket.tokens) / per_second)
            raise RateLimitedError(
                f"More than {self._per_minute:,} calls in a minute (BATCH_API_REQUESTS_PER_MINUTE): "
                f"try again in {seconds} s.",
                seconds,
            )
        bucket.tokens -= 1
