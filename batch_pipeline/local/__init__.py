"""The embedded servers, and the local system of these servers, Dagster and the API."""
