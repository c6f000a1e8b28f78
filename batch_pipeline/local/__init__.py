"""The embedded servers, and the whole local system made of them and Dagster."""
