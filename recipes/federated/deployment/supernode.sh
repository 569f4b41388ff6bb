#!/usr/bin/env bash
# A client's machine: a SuperNode beside its texts. See ../README.md, "In earnest" and "A node's own limits".
#   SUPERLINK               address of the server, as in its certificate: server.example:8000
#   CA                      certificate of who signed that of the server
#   KEY                     private key that lets this client in. Its owner sends KEY.pub to the server's owner
#   PRIVATE                 file or folder of the texts, with a ledger beside it
#   MAX_EPSILON, MAX_DELTA  what all runs together may cost this client
#   MIN_CLIENTS             fewest clients that a release may ask
#   MIN_COLLUDING           fewest clients that a release must allow to conspire with the server, if you ask for that
#   PORT                    of this node's own processes, on its own machine
# It runs whatever app the SuperLink sends. With `--trusted-entities FILE` it runs only those that are signed on Flower's
# Hub, and refuses an app that is sent from a folder.
set -euo pipefail
: "${SUPERLINK:?is missing}" "${CA:?is missing}" "${KEY:?is missing}" "${PRIVATE:?is missing}"
: "${MAX_EPSILON:?is missing}" "${MAX_DELTA:?is missing}" "${MIN_CLIENTS:?is missing}"
export FLWR_TELEMETRY_ENABLED=0
export FLWR_SUPEREXEC_TASK_POLL_INTERVAL="${FLWR_SUPEREXEC_TASK_POLL_INTERVAL:-0.1}"
exec flower-supernode --superlink "$SUPERLINK" --root-certificates "$CA" --auth-supernode-private-key "$KEY" \
  --host 127.0.0.1 --port "${PORT:-9094}" --node-config \
  "private=\"$PRIVATE\" max-epsilon=$MAX_EPSILON max-delta=$MAX_DELTA min-clients=$MIN_CLIENTS${MIN_COLLUDING:+ min-colluding=$MIN_COLLUDING}" "$@"
