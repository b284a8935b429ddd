"""Student models: one file per family, behind one protocol."""
