"""`python -m probe.cli`, as several processes are started."""

from probe.cli import app

if __name__ == "__main__":
    app()
