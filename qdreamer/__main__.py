"""python -m qdreamer: the console command where its script is not on the PATH."""

from qdreamer.cli import main

if __name__ == "__main__":
    main()
