"""The Dagster layer, one module per noun. Domain packages never import dagster; a test enforces it."""
