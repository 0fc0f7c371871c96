"""What a depot promises, in each kind of store."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from builder import manifest
from builder.depot import Depot, LostRace, Version
from builder.depot.records import CellName, CellRecord, Entry, Verdict
from builder.store import Store
from trtllm_kit.console import Silent
from trtllm_kit.errors import IntegrityError, SpecError

Artifact = Callable[..., Path]
MakeEntry = Callable[..., Entry]


def _build(depot: Depot, cell: CellName, folder: Path, entry: MakeEntry, night: str = "night-1") -> Version:
    seen = depot.read(cell)
    with depot.publish(folder, talk=Silent()) as upload:
        return depot.move(cell, seen, seen.record.built(entry(folder, upload, night), at_unix_s=1.0))


def _promote(depot: Depot, cell: CellName, folder: Path, entry: MakeEntry, night: str = "night-1") -> Version:
    built = _build(depot, cell, folder, entry, night)
    verdict = Verdict(decision="promote", against=None, reasons=("no worse",), night=night)
    return depot.move(cell, built, built.record.judged(verdict, at_unix_s=2.0))


def _uploads(depot: Depot, digest: str) -> list[str]:
    return depot.names(f"artifacts/{digest}")


def test_what_one_process_moved_another_reads(
    url: str, depot: Depot, cell: CellName, artifact: Artifact, entry: MakeEntry
) -> None:
    assert depot.read(cell) == Version(number=0, record=CellRecord())
    assert depot.read_all() == {}
    promoted = _promote(depot, cell, artifact("one"), entry)
    other = replace(cell, sku="h100_sxm")
    elsewhere = _build(depot, other, artifact("one", other), entry)

    seen = Depot.open(url)
    assert seen.read(cell) == promoted
    assert seen.read_all() == {cell: promoted, other: elsewhere}
    assert [version.number for version in seen.history(cell)] == [1, 2]
    assert seen.history(cell)[-1] == promoted


def test_of_two_that_move_from_the_same_version_one_wins(
    url: str, depot: Depot, cell: CellName, artifact: Artifact, entry: MakeEntry
) -> None:
    rival, one, two = Depot.open(url), artifact("one"), artifact("two")
    seen = depot.read(cell)
    with depot.publish(one, talk=Silent()) as first, rival.publish(two, talk=Silent()) as second:
        won = depot.move(cell, seen, seen.record.built(entry(one, first), at_unix_s=1.0))
        with pytest.raises(LostRace, match="another process"):
            rival.move(cell, seen, seen.record.built(entry(two, second), at_unix_s=1.0))
    assert depot.history(cell) == [won]


def test_an_artifact_survives_the_way_there_and_back(
    depot: Depot, cell: CellName, artifact: Artifact, entry: MakeEntry, tmp_path: Path
) -> None:
    folder = artifact("one")
    (folder / "model.sig").write_text("{}")
    built = _build(depot, cell, folder, entry).record.candidate
    assert built is not None
    store = Store(tmp_path / "store")
    pulled = depot.pull(built.digest, built.upload, store, talk=Silent())

    assert pulled == store.artifact_folder(built.digest)
    assert manifest.verify(pulled)["digest"] == built.digest
    assert _bytes_below(pulled) == _bytes_below(folder)


def _bytes_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_there_already_is_pulled_from_nowhere(
    depot: Depot, cell: CellName, artifact: Artifact, entry: MakeEntry, tmp_path: Path
) -> None:
    built = _build(depot, cell, artifact("one"), entry).record.candidate
    assert built is not None
    store = Store(tmp_path / "store")
    depot.pull(built.digest, built.upload, store, talk=Silent())
    assert depot.pull(built.digest, "an upload that is not there", store, talk=Silent()).is_dir()


def test_a_build_that_the_cell_holds_is_not_uploaded_again(
    depot: Depot, cell: CellName, artifact: Artifact, entry: MakeEntry
) -> None:
    first = _promote(depot, cell, artifact("one"), entry).record.current
    assert first is not None
    again = _build(depot, cell, artifact("one"), entry).record.candidate
    assert again is not None and again.upload == first.upload
    assert len(_uploads(depot, first.digest)) == 1


def test_a_signature_made_since_is_worth_another_upload(
    depot: Depot, cell: CellName, artifact: Artifact, entry: MakeEntry
) -> None:
    folder = artifact("one")
    unsigned = _build(depot, cell, folder, entry).record.candidate
    (folder / "model.sig").write_text("{}")
    signed = _build(depot, cell, folder, entry).record.candidate
    assert unsigned is not None and signed is not None and signed.upload != unsigned.upload
    assert _build(depot, cell, folder, entry).record.candidate == signed


def test_a_damaged_build_is_never_published(depot: Depot, cell: CellName, artifact: Artifact, entry: MakeEntry) -> None:
    folder = artifact("one")
    (folder / "engine" / "rank0.engine").write_text("flipped")
    with pytest.raises(IntegrityError, match=r"rank0\.engine has other bytes"):
        _build(depot, cell, folder, entry)
    (folder / "engine" / "rank0.engine").unlink()
    with pytest.raises(IntegrityError, match=r"rank0\.engine is missing"):
        _build(depot, cell, folder, entry)
    assert depot.read(cell).number == 0
    depot.collect(keep_days=7, dry_run=False)
    assert depot.names("artifacts") == [] and depot.names("pins") == []


def test_a_held_upload_that_lost_a_file_is_made_anew(
    depot: Depot, cell: CellName, artifact: Artifact, entry: MakeEntry
) -> None:
    lost = _build(depot, cell, artifact("one"), entry).record.candidate
    assert lost is not None
    depot._objects.delete([f"artifacts/{lost.digest}/{lost.upload}/spec.yaml"])
    again = _build(depot, cell, artifact("one"), entry).record.candidate
    assert again is not None and again.upload != lost.upload


@pytest.mark.parametrize("damage", ["flip", "remove a file", "remove the manifest", "cut the manifest"])
def test_a_damaged_upload_is_never_pulled(
    damage: str, depot: Depot, cell: CellName, artifact: Artifact, entry: MakeEntry, tmp_path: Path
) -> None:
    built = _build(depot, cell, artifact("one"), entry).record.candidate
    assert built is not None
    folder = f"artifacts/{built.digest}/{built.upload}"
    if damage == "flip":
        depot.write_text(f"{folder}/spec.yaml", "precision: fp9\n")
    elif damage == "cut the manifest":
        depot.write_text(f"{folder}/manifest.json", '{"format": 1, "fil')
    else:
        name = {"remove a file": "engine/rank0.engine", "remove the manifest": "manifest.json"}[damage]
        depot._objects.delete([f"{folder}/{name}"])
    store = Store(tmp_path / "store")
    with pytest.raises(IntegrityError, match=built.upload):
        depot.pull(built.digest, built.upload, store, talk=Silent())
    assert store.artifacts() == []


def test_a_manifest_that_names_files_outside_is_refused(
    depot: Depot, cell: CellName, artifact: Artifact, entry: MakeEntry, tmp_path: Path
) -> None:
    built = _build(depot, cell, artifact("one"), entry).record.candidate
    assert built is not None
    body = {
        "format": 1,
        "identifier": str(cell.identifier),
        "files": {"../../escaped": "0" * 64},
        "digest": built.digest,
    }
    depot.write_text(f"artifacts/{built.digest}/{built.upload}/manifest.json", json.dumps(body))
    with pytest.raises(IntegrityError, match="escaped"):
        depot.pull(built.digest, built.upload, Store(tmp_path / "store"), talk=Silent())
    assert not list(tmp_path.rglob("escaped"))


def test_refs_move_only_to_what_is_kept(depot: Depot, cell: CellName, artifact: Artifact, entry: MakeEntry) -> None:
    folder = artifact("one")
    with depot.publish(folder, talk=Silent()) as upload:
        pass
    with pytest.raises(LostRace, match="kept neither"):  # `collect` may have it by now
        depot.move(cell, depot.read(cell), CellRecord().built(entry(folder, upload), at_unix_s=1.0))
    assert depot.read(cell).number == 0


def test_collect_keeps_refs_holds_and_what_is_young(
    depot: Depot, cell: CellName, artifact: Artifact, entry: MakeEntry
) -> None:
    digests = []
    for content in ("one", "two", "three", "four"):
        current = _promote(depot, cell, artifact(content), entry).record.current
        assert current is not None
        digests.append(current.digest)
        if content == "one":
            depot.hold(current.digest, "production", "deployed on host a")
    assert depot.collect(keep_days=1, dry_run=False) == []

    would_go = depot.collect(keep_days=0, dry_run=True)
    assert [path.split("/")[1] for path in would_go] == [digests[1]]
    assert len(_uploads(depot, digests[1])) == 1
    assert depot.collect(keep_days=0, dry_run=False) == would_go
    assert [len(_uploads(depot, digest)) for digest in digests] == [1, 0, 1, 1]

    depot.release(digests[0], "production")
    assert [path.split("/")[1] for path in depot.collect(keep_days=0, dry_run=False)] == [digests[0]]
    assert depot.collect(keep_days=0, dry_run=False) == []


def test_an_upload_at_work_is_not_collected_and_one_given_up_is(depot: Depot, artifact: Artifact) -> None:
    with depot.publish(artifact("one"), talk=Silent()):
        assert depot.collect(keep_days=0, dry_run=False) == []
    assert len(depot.collect(keep_days=0, dry_run=False)) == 1
    assert depot.names("artifacts") == []


def test_a_pin_that_outlived_its_process_by_a_week_counts_no_more(depot: Depot, artifact: Artifact) -> None:
    with depot.publish(artifact("one"), talk=Silent()):
        (digest,) = depot.names("pins")
        (pin,) = depot.names(digest)
        text = depot.read_text(pin)
        assert text is not None
        left = {**json.loads(text), "at_unix_s": time.time() - 6.9 * 86400}
        depot.write_text(pin, json.dumps(left))
        assert depot.collect(keep_days=0, dry_run=False) == []
        depot.write_text(pin, json.dumps({**left, "at_unix_s": time.time() - 7.1 * 86400}))
        assert pin in depot.collect(keep_days=0, dry_run=False)
        assert depot.names("artifacts") == [] and depot.names("pins") == []


def test_a_hold_needs_a_build_that_a_ref_keeps(
    depot: Depot, cell: CellName, artifact: Artifact, entry: MakeEntry
) -> None:
    current = _promote(depot, cell, artifact("one"), entry).record.current
    assert current is not None
    with pytest.raises(SpecError, match="no ref"):
        depot.hold("f" * 64, "production", "deployed")
    assert depot.names("holds") == []
    depot.hold(current.digest, "production", "deployed")
    for content in ("two", "three"):
        _promote(depot, cell, artifact(content), entry)
    depot.hold(current.digest, "production", "deployed again")  # kept by itself, though no ref holds it now
    assert depot.collect(keep_days=0, dry_run=False) == []


def test_ancient_records_are_trimmed_and_moves_from_them_refused(
    depot: Depot, cell: CellName, artifact: Artifact, entry: MakeEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builder.depot.collect.KEEP_RECORDS", 3)
    versions = [_build(depot, cell, artifact("one"), entry) for _ in range(6)]
    depot.collect(keep_days=7, dry_run=False)
    assert depot.history(cell) == versions[3:]
    with pytest.raises(LostRace, match="trimmed"):
        depot.move(cell, versions[0], versions[0].record)
    assert depot.history(cell) == versions[3:]


def test_a_cell_is_found_as_people_name_it(depot: Depot, cell: CellName, artifact: Artifact, entry: MakeEntry) -> None:
    other = replace(cell, sku="l4")
    current = _promote(depot, cell, artifact("one"), entry).record.current
    _build(depot, other, artifact("one", other), entry)
    for text in (
        str(cell),
        str(cell.identifier),
        "m-1b/fp8/l40s",
        "m-1b-fp8-l40s",
        f"{cell}/current",
        "m-1b/fp8/l40s/",
    ):
        assert depot.find(text) == cell
    assert depot.find(f"{other}/candidate") == other
    assert depot.find_entry("m-1b/fp8/l40s") == depot.find_entry("m-1b/fp8/l40s/current") == current
    with pytest.raises(SpecError, match="2 cells"):
        depot.find("m-1b/fp8")
    with pytest.raises(SpecError, match="no cells"):
        depot.find("m-2b")
    with pytest.raises(SpecError, match="no previous build"):
        depot.find_entry(f"{cell}/previous")


def test_texts_of_nights(depot: Depot) -> None:
    texts = {"nights/b/night.json": "{}", "nights/b/cells/x.json": "[1]", "nights/a/night.json": "ä"}
    for path, text in texts.items():
        depot.write_text(path, text)
    depot.write_text("nights/b/night.json", '{"ended": 1}')
    assert depot.names("nights") == ["nights/a", "nights/b"]
    assert depot.names("nights/b") == ["nights/b/cells", "nights/b/night.json"]
    assert depot.names("nights/b/cells") == ["nights/b/cells/x.json"]
    assert depot.names("nights/c") == []
    assert depot.read_text("nights/a/night.json") == "ä"
    assert depot.read_text("nights/c/night.json") is None
    assert depot.read_texts([*texts, "nights/c/night.json"]) == {**texts, "nights/b/night.json": '{"ended": 1}'}


def test_a_depot_of_a_later_format_is_left_alone(url: str, depot: Depot) -> None:
    depot.write_text("depot.json", '{"format": 2}')
    with pytest.raises(IntegrityError, match="format 2"):
        Depot.open(url)


def test_a_damaged_record_is_named(depot: Depot, cell: CellName, artifact: Artifact, entry: MakeEntry) -> None:
    _build(depot, cell, artifact("one"), entry)
    depot.write_text(f"refs/{cell}/00000002.json", '{"format": 1, "rec')
    for read in (lambda: depot.read(cell), depot.read_all):
        with pytest.raises(IntegrityError, match=r"00000002\.json"):
            read()
