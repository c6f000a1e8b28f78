"""The local system as a whole."""

from batch_pipeline.local.servers import LocalServers, embedded_servers

__all__ = ["LocalServers", "embedded_servers"]
