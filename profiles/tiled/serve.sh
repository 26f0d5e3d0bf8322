#!/bin/sh
# Serve profiles/tiled/server.yml with SQLite unless PostgreSQL is named: serve.sh FOLDER [tiled options]
set -eu
folder=$(mkdir -p "$1/files" && cd "$1" && pwd)
shift
export NFPHASING_CATALOG="$folder"
export NFPHASING_CATALOG_URI="${NFPHASING_CATALOG_URI:-sqlite:///$folder/catalog.db}"
export NFPHASING_TABLES_URI="${NFPHASING_TABLES_URI:-sqlite:///$folder/tables.db}"
export NFPHASING_READABLE="${NFPHASING_READABLE:-$folder}"
exec "${TILED:-tiled}" serve config "$(dirname "$0")/server.yml" "$@"
