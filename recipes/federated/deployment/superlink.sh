#!/usr/bin/env bash
# The server's machine: a SuperLink with TLS that lets in SuperNodes by their keys. See ../README.md, "In earnest".
#   CERTIFICATES  folder with ca.crt, server.pem and server.key. server.pem names this machine as clients call it
#   HOST, PORT    what it listens on: this machine alone, unless HOST says otherwise. Whoever reaches the port under
#                 /v1/control can start runs and let in SuperNodes
set -euo pipefail
: "${CERTIFICATES:?names no folder with ca.crt, server.pem and server.key}"
export FLWR_TELEMETRY_ENABLED=0
# Seconds between looks for the next message. Flower's own value is 1.
export FLWR_SUPEREXEC_TASK_POLL_INTERVAL="${FLWR_SUPEREXEC_TASK_POLL_INTERVAL:-0.1}"
exec flower-superlink --enable-supernode-auth --disable-runtime-dependency-installation \
  --ssl-ca-certfile "$CERTIFICATES/ca.crt" --ssl-certfile "$CERTIFICATES/server.pem" \
  --ssl-keyfile "$CERTIFICATES/server.key" --host "${HOST:-127.0.0.1}" --port "${PORT:-8000}" "$@"
