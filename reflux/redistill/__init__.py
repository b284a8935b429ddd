"""`reflux redistill`: a candidate that has learned from the shadow log too, with a report of its gap."""
