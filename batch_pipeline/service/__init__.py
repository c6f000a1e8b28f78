"""What the HTTP API offers, as functions that know nothing of HTTP: creating, changing and describing batches."""
