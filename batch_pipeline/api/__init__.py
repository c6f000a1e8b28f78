"""The HTTP API: routes, bodies, the envelope and the OpenAPI document. `service` does the work."""
