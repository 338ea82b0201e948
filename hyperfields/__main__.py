"""`python -m hyperfields` is the command `hyperfields`."""

from hyperfields.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
