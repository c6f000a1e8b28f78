"""All that knows Dagster, one module per noun. Domain packages never import dagster; a test holds them to it."""
