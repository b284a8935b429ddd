"""Vendors' batch APIs: many calls handed in together, at a lower price."""
