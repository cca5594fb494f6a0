"""The program `dataforge`, also as `python -m dataforge`."""

from dataforge import interrupt

interrupt.quiet()

from dataforge.cli import main  # noqa: E402 (which takes most of the start)

if __name__ == "__main__":
    main(prog_name="dataforge")
