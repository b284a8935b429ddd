"""Students, one file per family, behind one protocol."""
