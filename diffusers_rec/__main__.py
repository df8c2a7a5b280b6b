"""``diffrec`` and ``python -m diffusers_rec``: the command line, or how to install what it needs."""

from __future__ import annotations

import sys

from diffusers_rec.core.errors import require_extra


def main() -> None:
    """Run the command line."""
    try:
        require_extra("typer", "cli")
        from diffusers_rec.cli.main import run  # noqa: PLC0415 - only if typer is installed
    except ImportError as error:
        sys.exit(f"diffrec: {error}")
    sys.exit(run())


if __name__ == "__main__":
    main()
