"""`python -m pymq` is the command `pymq`."""

from pymq.cli import main

if __name__ == "__main__":
    main()
