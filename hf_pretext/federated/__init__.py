"""Private Evolution among real clients, on [Flower](https://flower.ai): secure aggregation, noise from the clients.

`client.app` runs beside each client's text, `server.app` runs the generator, and `FederatedClientPool` is the
`ClientPool` in between. Questions, clipping and quantizing are those of `hf_pretext.clients`, on both sides of the
wall. `node` and `node_ledger` are a client's own limits, and its count of what it has answered in all runs. Needs the
extra `federation`.
"""
