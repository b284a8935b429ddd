"""The protocols of other servers, so that their clients need no change: thin adapters over `inference.dataplane`.

Each protocol is one file (the Open Inference Protocol a folder) with its paths, requests and responses; the other files
are shared. `infinity` has no route of its own: the native route `/classify` hands over the requests meant for it.
"""
