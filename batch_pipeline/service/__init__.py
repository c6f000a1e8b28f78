"""Functions behind the HTTP API that know nothing of HTTP: they create, change and describe batches."""
