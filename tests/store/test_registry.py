"""Bundles never change, and a damaged one is never opened."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from rul_core.errors import BundleError, StoreError
from rul_store.registry import BundleStore

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def test_a_bundle_is_read_back_as_it_was_written(tmp_path: Path):
    (tmp_path / "trained.cbm").write_bytes(b"trees")
    store = BundleStore(tmp_path)
    version = store.write(
        "pumps", {"model.cbm": tmp_path / "trained.cbm", "card.md": b"# Card"}, {"units": 100}
    )
    bundle = store.open("pumps", version)
    assert (bundle.fleet, bundle.version, bundle.manifest) == ("pumps", version, {"units": 100})
    assert bundle.read("model.cbm") == b"trees"
    assert bundle.path("card.md") == tmp_path / "models" / "pumps" / version / "card.md"
    assert sorted(p.name for p in bundle.folder.iterdir()) == [
        "SHA256SUMS",
        "bundle.json",
        "card.md",
        "model.cbm",
    ]
    assert (tmp_path / "trained.cbm").exists()


def test_versions_sort_by_time_and_name_their_content(tmp_path: Path):
    store = BundleStore(tmp_path)
    late = store.write("pumps", {"m": b"1"}, {}, now=NOON.replace(hour=13))
    early = store.write("pumps", {"m": b"1"}, {}, now=NOON)
    other = store.write("pumps", {"m": b"2"}, {}, now=NOON)
    assert early.startswith("20261123T120000Z-")
    assert early[-6:] == late[-6:] != other[-6:]
    assert store.list("pumps") == (*sorted([early, other]), late)
    assert store.list("fans") == ()


def test_the_same_content_in_the_same_second_is_the_same_bundle(tmp_path: Path):
    store = BundleStore(tmp_path)
    versions = {store.write("pumps", {"m": b"1"}, {"a": 1, "b": 2}, now=NOON) for _ in range(2)}
    assert len(versions) == 1
    assert store.write("pumps", {"m": b"1"}, {"a": 2, "b": 2}, now=NOON) not in versions


def test_a_flipped_byte_in_a_bundle_is_named(tmp_path: Path):
    store = BundleStore(tmp_path)
    version = store.write("pumps", {"model.cbm": b"trees", "card.md": b"x"}, {})
    opened = store.open("pumps", version)
    (opened.folder / "model.cbm").write_bytes(b"treet")
    with pytest.raises(BundleError, match=r"model\.cbm differs: .*roll back"):
        store.open("pumps", version)
    with pytest.raises(BundleError, match=r"model\.cbm changed since it was opened"):
        opened.read("model.cbm")
    assert opened.read("card.md") == b"x"


@pytest.mark.parametrize("name", ["model.cbm", "bundle.json", "SHA256SUMS"])
def test_a_missing_file_is_named(tmp_path: Path, name: str):
    store = BundleStore(tmp_path)
    version = store.write("pumps", {"model.cbm": b"trees"}, {})
    (tmp_path / "models" / "pumps" / version / name).unlink()
    with pytest.raises(BundleError, match=rf"{name} is missing"):
        store.open("pumps", version)


def test_an_extra_file_is_named(tmp_path: Path):
    store = BundleStore(tmp_path)
    version = store.write("pumps", {"model.cbm": b"trees"}, {})
    (tmp_path / "models" / "pumps" / version / "other.cbm").write_bytes(b"trees")
    with pytest.raises(BundleError, match=r"other\.cbm is not in SHA256SUMS"):
        store.open("pumps", version)


def test_a_version_that_is_not_there_names_those_that_are(tmp_path: Path):
    store = BundleStore(tmp_path)
    version = store.write("pumps", {"m": b"1"}, {})
    with pytest.raises(BundleError, match=rf"x is not there \(newest .*{version}\)"):
        store.open("pumps", "x")
    with pytest.raises(BundleError, match=r"has no file 'n', only bundle\.json, m;"):
        store.open("pumps", version).path("n")


@pytest.mark.parametrize("name", ["../m", "a/b", "", "bundle.json", "SHA256SUMS"])
def test_an_unsafe_or_taken_file_name_is_refused_before_anything_is_written(
    tmp_path: Path, name: str
):
    store = BundleStore(tmp_path)
    with pytest.raises(StoreError, match="name"):
        store.write("pumps", {"m": b"1", name: b"2"}, {})
    assert not (tmp_path / "models").exists()


def test_a_fleet_cannot_leave_the_registry(tmp_path: Path):
    with pytest.raises(StoreError, match=r"fleet '\.\.'"):
        BundleStore(tmp_path).list("..")


def test_a_file_that_cannot_be_copied_leaves_nothing(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        BundleStore(tmp_path).write("pumps", {"m": tmp_path / "nowhere"}, {})
    assert BundleStore(tmp_path).list("pumps") == ()


def test_folders_that_are_no_versions_are_not_listed(tmp_path: Path):
    store = BundleStore(tmp_path)
    version = store.write("pumps", {"m": b"1"}, {})
    (tmp_path / "models" / "pumps" / ".x.1.tmp").mkdir()
    (tmp_path / "models" / "pumps" / "notes").mkdir()
    (tmp_path / "models" / "pumps" / "live.json").write_text("{}")
    assert store.list("pumps") == (version,)
