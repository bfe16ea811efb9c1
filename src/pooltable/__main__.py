"""`python -m pooltable` is the command `pooltable`."""

from pooltable.cli import main

# A worker imports this module again under another name, and must not run the command.
if __name__ == "__main__":
    main()
