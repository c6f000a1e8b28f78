"""From checked items to records: staging, identity, and writing in chunks, set-based on PostgreSQL."""
