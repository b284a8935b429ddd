"""What serving needs of a bundle: its format, its checks, and the classifier that runs its graph."""
