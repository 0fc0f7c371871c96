"""What upstream is at this moment, against what the last nights wrote down. Nothing is downloaded, nothing built."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from builder.hub import HUB_ID, current_commit
from profiles import versions
from profiles.detect import snapshot
from serving.nightly import matrix
from serving.nightly.checkpoints import Checkpoints
from serving.nightly.image_digest import image_key, wanted_digest
from serving.nightly.record import NightRecord
from serving.nightly.report.differences import Difference, differences, last_known
from serving.nightly.spec import Nightly
from trtllm_kit import __version__
from trtllm_kit.errors import CHANGES_PENDING, HostError, KitError

_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True)
class Watched:
    """`now` is what answered; `unanswered` what did not, with the reason."""

    since: str | None  # the last night; None: there was none
    now: Mapping[str, str]
    changes: tuple[Difference, ...]
    new: tuple[str, ...]  # that no night wrote down
    unanswered: Mapping[str, str]

    @property
    def exit_code(self) -> int:
        """10 when something changed, else 4 when something could not be asked, else 0. Models that are new are a
        change; other things that no night wrote down are none."""
        if self.changes or self.since is None or any(name.startswith("model ") for name in self.new):
            return CHANGES_PENDING
        return HostError.exit_code if self.unanswered else 0

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "exit_code": self.exit_code}


def upstream(nightly: Nightly, asked: Mapping[str, str] = MappingProxyType({})) -> dict[str, str]:
    """What a night writes down of upstream: what it has `asked` before, images by digest, and what is pinned.

    What cannot be asked is left out, and where `HF_HUB_OFFLINE` is set nobody is asked: a night without network is as
    good as any other.
    """
    open_ones = {name: question for name, question in _image_questions(nightly).items() if name not in asked}
    return {**pinned(nightly), **_ask(open_ones)[0], **asked}


def watch(nightly: Nightly, nights: Sequence[NightRecord], checkpoints: Checkpoints) -> Watched:
    """Ask for every model and image of the matrix; nights are oldest first.

    Raises SpecError for a matrix that cannot be read; what does not answer is in the result.
    """
    models = _written(nightly, "model")
    remote = {one for one in models if HUB_ID.fullmatch(one) and not Path(one).is_dir()}
    folders, unread = _ask({_model_key(one): _folder(one, checkpoints) for one in models if one not in remote}, 1)
    asked = {_model_key(one): partial(current_commit, one) for one in sorted(remote)}
    answers, unanswered = _ask({**asked, **_image_questions(nightly)})
    known, now = last_known(nights), {**pinned(nightly), **folders, **answers}
    return Watched(
        since=nights[-1].night if nights else None,
        now=now,
        changes=tuple(differences(known, now)),
        new=tuple(sorted(now.keys() - known.keys())),
        unanswered={**unread, **unanswered},
    )


def pinned(nightly: Nightly) -> dict[str, str]:
    """Versions that change only when somebody changes them: known without asking anybody."""
    releases = _releases(nightly)
    tags = (release.triton[-1] for release in releases if release.triton)
    found = {
        "trtllm": ", ".join(release.trtllm for release in releases),
        "triton": ", ".join(tags),
        "driver": snapshot().driver_version or "",
        "trtllm-kit": __version__,
    }
    return {name: value for name, value in found.items() if value}


def _releases(nightly: Nightly) -> list[versions.Release]:
    """Of the versions that the matrix names, else of the default; one that is not in the table is left out."""
    wanted = _written(nightly, "trtllm_version") or ["auto"]
    known = versions.releases()
    found = (versions.find(version) for version in wanted if version == "auto" or version in known)
    return sorted({release.trtllm: release for release in found}.values(), key=lambda release: release.trtllm)


def _written(nightly: Nightly, key: str) -> list[str]:
    """Every value that the matrix gives a key of the spec, in base, axes, `include` or overrides."""
    overrides = (matrix.tree_of({}, override.set, nightly) for override in nightly.spec.overrides)
    return list(dict.fromkeys(str(tree[key]) for tree in (*_cells(nightly), *overrides) if key in tree))


def _cells(nightly: Nightly) -> Iterator[Mapping[str, Any]]:
    """The spec of every cell as it is written."""
    base = matrix.base_of(nightly)
    return (matrix.tree_of(base, settings, nightly) for settings in matrix.settings_of(nightly))


def _model_key(model: str) -> str:
    return f"model {model}"


def _folder(model: str, checkpoints: Checkpoints) -> Callable[[], str]:
    return lambda: checkpoints.get(model, trust_remote_code=True).digest  # no code of its is run to read it


def _image_questions(nightly: Nightly) -> dict[str, Callable[[], str]]:
    if all(cell.get("target", {}).get("sku") == "cpu" for cell in _cells(nightly)):
        return {}  # no container serves them
    images = (release.triton_image for release in _releases(nightly))
    return {image_key(image): partial(wanted_digest, image) for image in images if image}


def _ask(questions: Mapping[str, Callable[[], str]], at_once: int = _AT_ONCE) -> tuple[dict[str, str], dict[str, str]]:
    """(answers, reasons why there is none)."""

    def answer(question: Callable[[], str]) -> str | KitError:
        try:
            return question()
        except KitError as error:
            return error

    with ThreadPoolExecutor(at_once) as pool:
        found = dict(zip(questions, pool.map(answer, questions.values()), strict=True))
    return (
        {name: value for name, value in found.items() if isinstance(value, str)},
        {name: value.happened for name, value in found.items() if isinstance(value, KitError)},
    )
