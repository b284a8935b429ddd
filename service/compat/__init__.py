"""The protocols of other servers, so that their clients need no change: thin adapters over `inference.dataplane`.

A file per protocol, with its paths, its requests and its replies; what they share is beside them. Only `infinity` has
no route of its own: it shares the path of the native one, which hands it the requests that are meant for it.
"""
