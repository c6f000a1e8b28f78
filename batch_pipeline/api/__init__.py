"""The HTTP API: routes, the envelope of every answer, and what of HTTP the functions of `service` need not know."""
