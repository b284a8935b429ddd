"""`reflux estimate`: what a student would save, read from a log of prompts and answers before anything is changed."""
