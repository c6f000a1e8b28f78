#!/bin/sh
# The image of PostgreSQL executes this once, when it makes the database. `batch-pipeline db roles` gives the rights.
set -eu
psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" \
  --set loader="$LOADER_PASSWORD" --set api="$API_PASSWORD" <<'SQL'
CREATE ROLE bp_loader LOGIN PASSWORD :'loader';
CREATE ROLE bp_api LOGIN PASSWORD :'api';
SQL
