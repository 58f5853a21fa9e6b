"""`python -m grounded` is the command `grounded`."""

from grounded.cli.main import main

if __name__ == "__main__":
    main(prog_name="grounded")
