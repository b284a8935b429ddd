"""Vendors' batch APIs: many calls submitted together, at a lower price."""
