"""The one name of a build: `<model>-<precision>-<sku>-tp<T>pp<P>-<runtime>`, one parser and one formatter."""

from __future__ import annotations

import re
from dataclasses import dataclass

from trtllm_kit.errors import SpecError

_PATTERN = re.compile(
    r"(?P<model>[a-z0-9][a-z0-9._-]*)-(?P<precision>[a-z0-9_]+)-(?P<sku>[a-z0-9_]+)"
    r"-tp(?P<tp>[1-9][0-9]*)pp(?P<pp>[1-9][0-9]*)-(?P<runtime>[a-z0-9_]+)"
)


@dataclass(frozen=True, kw_only=True)
class BuildIdentifier:
    """Example: ``llama-3.1-8b-instruct-fp8-h100_sxm-tp1pp1-tensorrt``.

    Only `model` may hold a dash, so the string parses back unambiguously from its right end.
    """

    model: str
    precision: str
    sku: str
    tp: int
    pp: int
    runtime: str

    def __str__(self) -> str:
        return f"{self.model}-{self.precision}-{self.sku}-tp{self.tp}pp{self.pp}-{self.runtime}"

    @classmethod
    def parse(cls, text: str) -> BuildIdentifier:
        """Inverse of `str`; raises SpecError with the expected form."""
        match = _PATTERN.fullmatch(text)
        if match is None:
            raise SpecError(
                f"'{text}' is not a build identifier",
                expected="<model>-<precision>-<sku>-tp<T>pp<P>-<runtime>, e.g. tiny-llama-bf16-cpu-tp1pp1-cpu",
                fix="list the builds that exist with `trtllm-kit artifact list`",
            )
        parts = match.groupdict()
        return cls(
            model=parts["model"],
            precision=parts["precision"],
            sku=parts["sku"],
            tp=int(parts["tp"]),
            pp=int(parts["pp"]),
            runtime=parts["runtime"],
        )


def model_slug(source: str) -> str:
    """The identifier's model part, from `org/name@revision` or a folder: the last path component, lower case."""
    name = source.split("@", 1)[0].rstrip("/").rsplit("/", 1)[-1].lower()
    slug = re.sub(r"[^a-z0-9._-]+", "-", name).strip("-._")
    if not slug:
        raise SpecError(
            f"no name can be made from the model '{source}'",
            expected="a Hugging Face id such as org/name, or a folder with a name",
            fix="set `name:` in the spec",
        )
    return slug
