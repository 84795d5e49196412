"""`python -m cryomorph` is the `cryomorph` command."""

from cryomorph.cli import main

if __name__ == "__main__":
    main()
