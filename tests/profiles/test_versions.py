"""The compatibility matrix and the order of versions."""

from __future__ import annotations

import itertools

import pytest

from profiles import versions
from trtllm_kit.errors import SpecError


def test_the_default_is_the_last_stable_engine_builder() -> None:
    release = versions.find()
    assert release.trtllm == versions.DEFAULT == "1.2.1"
    assert release.has_engine_path
    assert release.has_pytorch_path
    assert release.triton_image == "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3"
    assert release.trtllm_image == "nvcr.io/nvidia/tensorrt-llm/release:1.2.1"
    assert (release.tensorrt, release.modelopt, release.triton_contract) == ("10.14.1.48", "0.37.0", "1.x")


@pytest.mark.parametrize(
    ("version", "engine", "pytorch"),
    [
        ("0.16.0", True, False),
        ("0.21.0", True, False),
        ("1.0.0", True, True),
        ("1.2.1", True, True),
        ("1.3.0rc3", True, True),
        ("1.3.0rc20", True, True),
        ("1.3.0rc21", False, True),
        ("1.3.0", False, True),
        ("2.0.0", False, True),
    ],
)
def test_which_paths_a_version_has(version: str, engine: bool, pytorch: bool) -> None:
    assert versions.has_engine_path(version) is engine
    assert versions.has_pytorch_path(version) is pytorch


def test_versions_are_ordered_as_released() -> None:
    ordered = [
        "0.9.0",
        "0.17.0",
        "0.17.0.post1",
        "1.0.0",
        "1.0.3.2510",
        "1.2.1",
        "1.3.0rc3",
        "1.3.0rc20",
        "1.3.0rc21",
        "1.3.0",
    ]
    for older, newer in itertools.pairwise(ordered):
        assert versions.compare(older, newer) < 0
        assert versions.compare(newer, older) > 0
    assert versions.compare("1.2.1", "1.2.1.0") == 0


def test_the_matrix_is_sorted_and_each_row_says_where_it_comes_from() -> None:
    releases = list(versions.releases().values())
    for newer, older in itertools.pairwise(releases):
        assert versions.compare(newer.trtllm, older.trtllm) > 0
    assert all(release.source and release.date for release in releases)
    assert all(release.driver for release in releases if release.triton)


def test_no_triton_image_has_two_versions() -> None:
    tags = [tag for release in versions.releases().values() for tag in release.triton]
    assert len(tags) == len(set(tags))
    assert versions.by_triton_image("26.05").trtllm == "1.2.1"
    with pytest.raises(SpecError, match=r"19\.01"):
        versions.by_triton_image("19.01")


def test_a_version_without_image_says_so() -> None:
    release = versions.find("1.3.0rc24")
    assert (release.triton_image, release.triton_contract) == (None, None)


@pytest.mark.parametrize("version", ["1.2.9", "latest", "", "1.2.x"])
def test_an_unknown_version_is_refused(version: str) -> None:
    with pytest.raises(SpecError) as caught:
        versions.find(version)
    assert "1.2.1" in str(caught.value)
