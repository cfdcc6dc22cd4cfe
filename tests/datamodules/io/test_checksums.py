"""No changed voxel is accepted in a file that carries a checksum."""

import gzip
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from datamodules.io.checksums import check_image, read_json, write_json
from datamodules.io.radiographs import read_grey
from datamodules.io.synthetic_dicom import DESCRIPTION
from datamodules.io.volumes import Volume, read_grid, read_volume, write_volume

SUFFIXES = (".mha", ".nii.gz", ".nii", ".nrrd")


@pytest.fixture
def scan() -> Volume:
    array = np.random.default_rng(0).normal(-800, 30, (8, 12, 12)).astype(np.int16)
    return Volume(array, (1.25, 0.7, 0.7), (-3.25, 40.5, 100.0), np.eye(3))


def flipped(content: bytes, place: int, bit: int) -> bytes:
    changed = bytearray(content)
    changed[place] ^= 1 << bit
    return bytes(changed)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("description", ["", DESCRIPTION])
def test_a_flipped_bit_is_refused(
    suffix: str, description: str, scan: Volume, tmp_path: Path
) -> None:
    path, chance = tmp_path / f"a{suffix}", random.Random(0)
    write_volume(path, scan, description)
    whole = path.read_bytes()
    refused = 0
    for _ in range(120):
        path.write_bytes(flipped(whole, chance.randrange(len(whole)), chance.randrange(8)))
        try:
            found = read_volume(path)
        except ValueError:
            refused += 1
        else:  # what gzip says of the time and the system
            np.testing.assert_array_equal(found.array, scan.array)
            assert found.grid.matches(scan.grid)
    assert refused >= (118 if suffix == ".nii.gz" else 120)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd", ".nii"])
def test_a_flipped_bit_of_the_checksum_itself_is_refused(
    suffix: str, scan: Volume, tmp_path: Path
) -> None:
    path = tmp_path / f"a{suffix}"
    write_volume(path, scan)
    whole = path.read_bytes()
    place = whole.index(b"crc32=")
    for at in range(place, place + 29):
        for bit in range(8):
            path.write_bytes(flipped(whole, at, bit))
            with pytest.raises(ValueError, match="differs from its checksum; copy or make it"):
                read_volume(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_copy_under_another_name_is_whole(suffix: str, scan: Volume, tmp_path: Path) -> None:
    write_volume(tmp_path / f"a/a{suffix}", scan, "outline")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    moved = (tmp_path / f"b/a{suffix}").rename(tmp_path / f"b/other{suffix}")
    np.testing.assert_array_equal(read_volume(moved).array, scan.array)
    assert read_grid(moved).matches(scan.grid)
    header = sitk.ReadImage(moved)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(header), scan.array)
    assert header.GetMetaData("ITK_FileNotes").startswith("outline")


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("suffix", [*SUFFIXES, ".mhd"])
def test_files_of_others_are_read(
    suffix: str, compressed: bool, scan: Volume, tmp_path: Path
) -> None:
    path = tmp_path / f"a{suffix}"
    image = sitk.GetImageFromArray(scan.array)
    sitk.WriteImage(image, str(path), useCompression=compressed)
    np.testing.assert_array_equal(read_volume(path).array, scan.array)


@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd"])
def test_compressed_voxels_of_others_are_checked(
    suffix: str, scan: Volume, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"a{suffix}"
    image = sitk.GetImageFromArray(scan.array)
    sitk.WriteImage(image, str(path), useCompression=True)
    data = path if suffix != ".mhd" else tmp_path / "a.zraw"
    whole = data.read_bytes()
    for back in (1, 3, 9, 100, 500, 900):
        data.write_bytes(flipped(whole, len(whole) - back, back % 8))
        with pytest.raises(ValueError, match="is damaged or cut short"):
            read_volume(path)
    assert capfd.readouterr().err == ""


def test_what_another_program_changed_can_be_read_again(scan: Volume, tmp_path: Path) -> None:
    path = tmp_path / "a.mha"
    write_volume(path, scan)
    image = sitk.ReadImage(path) + 1
    image.SetMetaData("ITK_FileNotes", sitk.ReadImage(path).GetMetaData("ITK_FileNotes"))
    sitk.WriteImage(image, path)
    with pytest.raises(ValueError, match="replace crc32= by other= in its header"):
        read_volume(path)
    path.write_bytes(path.read_bytes().replace(b"crc32=", b"other="))
    np.testing.assert_array_equal(read_volume(path).array, scan.array + 1)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60
)
@given(
    suffix=st.sampled_from(SUFFIXES),
    at=st.floats(0, 1),
    length=st.integers(0, 400),
    put=st.binary(max_size=400),
)
def test_changed_bytes_are_refused_or_harmless(
    suffix: str, at: float, length: int, put: bytes, scan: Volume, tmp_path: Path
) -> None:
    path = tmp_path / f"of{suffix}" / f"a{suffix}"
    write_volume(path, scan)
    content = path.read_bytes()
    place = int(at * len(content))
    changed = content[:place] + put + content[place + length :]
    assume(suffix == ".nii.gz" or b"crc32=" in changed)  # else it is like a file of others
    path.write_bytes(changed)
    try:
        found = read_volume(path)
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017
    else:
        np.testing.assert_array_equal(found.array, scan.array)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_header_that_slipped_is_refused(suffix: str, scan: Volume, tmp_path: Path) -> None:
    """Without both checksums and the mark of NIfTI, ITK would read the header as voxels."""
    path = tmp_path / f"a{suffix}"
    write_volume(path, scan)
    whole = path.read_bytes() if suffix == ".nii" else gzip.decompress(path.read_bytes())
    slipped = whole[:83] + whole[164:]
    assert b"crc32=" not in slipped
    path.write_bytes(slipped if suffix == ".nii" else gzip.compress(slipped))
    with pytest.raises(ValueError, match=r"no header of NIfTI|is damaged or cut short"):
        read_volume(path)


def test_facts_are_checked(tmp_path: Path) -> None:
    path, facts = tmp_path / "facts.json", {"patients": ["a", "b"], "number": 1.5}
    write_json(path, facts)
    assert read_json(path) == facts
    text = path.read_text()
    path.write_text(text.replace('"b"', '"c"'))
    with pytest.raises(ValueError, match=r"facts\.json differs from its checksum"):
        read_json(path)
    for wrong in ("", "[]", "{", "\x00", "[" * 100_000):
        path.write_text(wrong)
        with pytest.raises(ValueError, match=r"facts\.json (is no JSON|holds no facts)"):
            read_json(path)
    path.write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ValueError, match="is no JSON"):
        read_json(path)
    path.write_text('{"patients": []}')
    assert read_json(path) == {"patients": []}


def test_a_file_without_a_checksum_passes(tmp_path: Path) -> None:
    (tmp_path / "a.mha").write_bytes(b"")
    check_image(tmp_path / "a.mha")


def test_a_changed_png_is_refused(tmp_path: Path) -> None:
    path, pixels = tmp_path / "a.png", np.random.default_rng(0).integers(0, 4096, (20, 30))
    Image.fromarray(pixels.astype(np.uint16)).save(path)
    whole = path.read_bytes()
    for place in range(0, len(whole) - 12, 3):  # the end's own name is 12 bytes, and holds nothing
        path.write_bytes(flipped(whole, place, place % 8))
        with pytest.raises(ValueError, match="no picture or cut short or damaged"):
            read_grey(path)
