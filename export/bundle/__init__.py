"""What serving needs: the format of a bundle, its checks, and the classifier that runs its graph."""
