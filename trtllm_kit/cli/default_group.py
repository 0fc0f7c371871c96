"""Groups like `deploy`: a first word that is no subcommand belongs to the one that is meant when none is named."""

from __future__ import annotations

from typing import Any

import click


class DefaultGroup(click.Group):
    """`NAME [ARGUMENTS]` runs the subcommand `default`; `NAME SUBCOMMAND` runs that."""

    def __init__(self, *args: Any, default: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.default = default

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the default in front; --help is the group's own."""
        asks_for_help = bool(set(args) & {"-h", "--help"})
        if not asks_for_help and (not args or args[0] not in self.commands):
            args = [self.default, *args]
        return super().parse_args(ctx, args)
