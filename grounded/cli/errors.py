"""How the commands end when something is wrong: with one line, never with a traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from grounded.errors import ConfigError, GroundedError, one_line


@contextmanager
def errors_as_messages() -> Iterator[None]:
    """End the command with one line: status 2 for a wrong configuration, 1 for whatever else can go wrong."""
    try:
        yield
    except ConfigError as error:
        raise click.UsageError(str(error)) from error
    except GroundedError as error:
        click.echo(f"Error: {one_line(error)}", err=True)
        sys.exit(1)
