"""A bundle travels: to a registry, a folder or an object store, and from there to the machine that serves it."""
