"""`python -m modist`."""

from modist.cli import main

main()
