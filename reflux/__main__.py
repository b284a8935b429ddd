"""`python -m reflux`: the command."""

from reflux.cli import main

main()
