"""Data: read texts from files, remove duplicates, split them and check them."""
