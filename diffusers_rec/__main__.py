"""``diffrec`` and ``python -m diffusers_rec``: the command line, or a word on how to install it."""

from __future__ import annotations

import sys

from diffusers_rec.core.errors import require_extra


def main() -> None:
    """Run the command line."""
    try:
        require_extra("typer", "cli")
        from diffusers_rec.cli.main import run  # noqa: PLC0415 - only once what it needs is known to be there
    except ImportError as error:
        sys.exit(f"diffrec: {error}")
    sys.exit(run())


if __name__ == "__main__":
    main()
