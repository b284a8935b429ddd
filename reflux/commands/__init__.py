"""The verbs of `reflux`, without logic of their own: one file per group, assembled in `reflux.cli`."""
