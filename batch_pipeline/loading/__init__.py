"""From checked items to records, set-based in PostgreSQL: staging, identity, plan, and writing in chunks."""
