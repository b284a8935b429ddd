"""Asks language models for labels, and turns their answers into distributions over labels."""
