"""How a language model is asked for a label, and how its answer becomes a distribution over labels."""
