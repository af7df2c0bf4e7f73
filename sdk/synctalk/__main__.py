"""`python -m synctalk` is the command `synctalk`."""

from synctalk.cli import main

if __name__ == "__main__":
    main()
