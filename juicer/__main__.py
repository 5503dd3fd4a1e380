"""`python -m juicer`: the same as the console script `juicer`."""

from juicer.cli import main

if __name__ == "__main__":
    main()
