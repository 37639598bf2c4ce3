"""`python -m estuaire`."""

from estuaire.cli import main

main()
