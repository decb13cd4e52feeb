"""`python -m somactl`, where the console script is not on the PATH."""

from somactl.cli import main

if __name__ == "__main__":
    main()
