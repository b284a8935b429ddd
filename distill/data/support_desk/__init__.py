"""The built-in support desk: its generator, its wordings and its task."""
