"""`python -m estuaire`."""

from estuaire.cli import main

if __name__ == "__main__":
    main()
