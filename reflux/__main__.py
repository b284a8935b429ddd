"""`python -m reflux`: run the command."""

from reflux.cli import main

main()
