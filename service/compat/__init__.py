"""The protocols of other servers, so that their clients need no change: thin adapters over `inference.dataplane`.

Each protocol is one file with its paths, requests and responses (the Open Inference Protocol a folder); what they
share is in the other files. `infinity` has
no route of its own: it shares the path `/classify` with the native route, which hands over the requests meant for it.
"""
