"""Right data of every kind, as small as they can be, for `faulty_inputs`."""

from pathlib import Path

import numpy as np
import pandas as pd
from dicom import lidc_xml, uid_of, write_series
from PIL import Image

from datamodules.io.volumes import Volume, write_volume
from noduleforge.prepare.outlines import Contour, Drawing

SIDE = 14
SUBTYPES = ("solid", "part-solid", "ground-glass")
NONE: tuple[float, ...] = (0.0, 0.0, 0.0)


def ball(side: int = SIDE, radius: float = 3.0, dims: int = 3) -> np.ndarray:
    """A ball in the middle of a cube, as booleans."""
    grid = np.indices((side,) * dims) - (side - 1) / 2
    return (grid**2).sum(0) < radius**2


def cube(root: Path, number: int, dims: int = 3, side: int = SIDE) -> dict[str, object]:
    """Write a nodule's image and mask; its row of `nodules.csv`."""
    rng = np.random.default_rng(number)
    inside = ball(side, 2.5 + number % 3 * 0.7, dims)
    image = rng.normal(-850, 30, inside.shape)
    image[inside] = rng.normal((20, -350, -600)[number % 3], 30, int(inside.sum()))
    for kind, array in (("image", image.astype(np.int16)), ("mask", inside.astype(np.uint8))):
        volume = Volume(array, (1.0,) * dims, NONE[:dims], np.eye(dims))
        write_volume(root / f"{kind}s/n{number}.mha", volume)
    return {
        "nodule_id": f"n{number}",
        "patient_id": f"P{number}",
        "image": f"images/n{number}.mha",
        "mask": f"masks/n{number}.mha",
        "subtype": SUBTYPES[number % 3],
        "texture": (5, 3, 1)[number % 3],
        "malignancy": 1 + number % 5,
    }


def store(root: Path, nodules: int = 3) -> None:
    """A data set of nodules in CT, of as many patients."""
    rows = [cube(root, number) for number in range(nodules)]
    pd.DataFrame(rows).to_csv(root / "nodules.csv", index=False)


def one_nodule(root: Path) -> None:
    """A data set of a single nodule."""
    store(root, 1)


def volumes(root: Path) -> None:
    """Three CTs with masks of their nodules, in three forms."""
    rows = []
    for number, ending in enumerate((".nii.gz", ".mha", ".nrrd")):
        rng = np.random.default_rng(number)
        hu = rng.integers(-950, -700, (SIDE,) * 3).astype(np.int16)
        labels = ball().astype(np.uint8)
        for kind, array in (("ct", hu), ("mask", labels)):
            volume = Volume(array, (1.0, 0.8, 0.8), (-9.0, 4.0, 30.0), np.eye(3))
            write_volume(root / f"{kind}{number}{ending}", volume)
        files = {"image": f"ct{number}{ending}", "mask": f"mask{number}{ending}"}
        rows.append({"patient_id": f"P{number}", **files, "subtype": "solid"})
    pd.DataFrame(rows).to_csv(root / "table.csv", index=False)


def lidc(root: Path) -> None:
    """A series of LIDC-IDRI as TCIA ships it, with a reader's outlines."""
    spacing, origin, uid = (2.0, 0.8, 0.8), (-20.0, -30.0, 100.0), uid_of("series")
    hu = np.random.default_rng(0).integers(-1000, -300, (10, 24, 24)).astype(np.int16)
    write_series(root / "dicom", Volume(hu, spacing, origin, np.eye(3)), "LIDC-IDRI-0001", uid)
    square = np.array(
        [(8, 8 + k) for k in range(8)]
        + [(8 + k, 15) for k in range(1, 8)]
        + [(15, 15 - k) for k in range(1, 8)]
        + [(15 - k, 8) for k in range(1, 7)]
    )
    contours = tuple(
        Contour(True, origin[2] + spacing[0] * k, square, uid_of(uid, k)) for k in (4, 5, 6)
    )
    drawing = Drawing("A", "0", contours, {"texture": 5, "subtlety": 4, "malignancy": 3})
    (root / "xml").mkdir()
    (root / "xml/069.xml").write_text(lidc_xml(uid, [[drawing]]))


def jsrt(root: Path) -> None:
    """A radiograph of JSRT with a nodule."""
    line = "JPCLN001.IMG\t4\t20\t53\tMale\t700\t900\tbenign\tleft\tcancer\r\n"
    (root / "CLNDAT_EN.txt").write_bytes(line.encode("latin-1"))
    rng = np.random.default_rng(0)
    row = rng.integers(1500, 3000, 2048).astype(">u2")
    (root / "JPCLN001.IMG").write_bytes(row.tobytes() * 2048)


def chestxray14(root: Path) -> None:
    """Two images of ChestX-ray14, one with a box."""
    y, x = np.mgrid[:1024, :1024] / 1024
    lungs = sum(np.exp(-(((x - c) / 0.13) ** 4) - ((y - 0.45) / 0.28) ** 4) for c in (0.28, 0.72))
    (root / "images").mkdir()
    names = [f"{number:08}_000.png" for number in range(2)]
    for name in names:
        Image.fromarray((200 - 120 * lungs).astype(np.uint8)).save(root / "images" / name)
    rows = [
        f"{name},{'Nodule' if k else 'No Finding'},0,{k},50,F,PA,2048,2048,0.17,0.17"
        for k, name in enumerate(names)
    ]
    header = (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,"
        "View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
    )
    (root / "Data_Entry_2017_v2020.csv").write_text("\n".join([header, *rows]) + "\n")
    boxes = ["Image Index,Finding Label,Bbox [x,y,w,h],,,", f"{names[1]},Nodule,300,400,50,50"]
    (root / "BBox_List_2017.csv").write_text("\n".join(boxes) + "\n")


def chest(root: Path) -> None:
    """A coarse chest CT to place nodules in, and a store of shapes."""
    shape, spacing = (50, 80, 100), (5.0, 4.0, 4.0)
    z, y, x = (
        (axis - (n - 1) / 2) * step
        for axis, n, step in zip(np.indices(shape), shape, spacing, strict=True)
    )
    hu = np.full(shape, -1000, np.int16)
    hu[(y / 110) ** 2 + (x / 150) ** 2 < 1] = 40
    for center in (-70, 70):
        hu[(z / 95) ** 2 + (y / 75) ** 2 + ((x - center) / 50) ** 2 < 1] = -850
    volume = Volume(hu, spacing, (-10.0, 20.0, 30.0), np.eye(3))
    write_volume(root / "chest.mha", volume)
    lungs = Volume((hu == -850).astype(np.uint8), spacing, volume.origin_mm, volume.direction)
    write_volume(root / "lungs/chest.nii.gz", lungs)
    store(root / "shapes")
    there = {"study": "in/chest.mha", "x_mm": 90, "y_mm": 180, "z_mm": 150, "diameter_mm": 20}
    pd.DataFrame([there]).to_csv(root / "there.csv", index=False)


def radiographs(root: Path, number: int = 4) -> None:
    """Radiographs without a nodule in a folder with a table, and a store of shapes."""
    rows = []
    for k in range(number):
        pixels = np.random.default_rng(k).integers(60, 200, (90, 80)).astype(np.uint8)
        for folder in ("radiographs", "lungs"):
            (root / folder).mkdir(exist_ok=True, parents=True)
            Image.fromarray(pixels).save(root / folder / f"f{k}.png")
        split = ("train", "val", "test", "train")[k % 4]
        row = {"image": f"radiographs/f{k}.png", "patient_id": f"P{k}", "spacing_mm": 0.75}
        rows.append({**row, "split": split})
    pd.DataFrame(rows).to_csv(root / "radiographs.csv", index=False)
    store(root / "shapes")


def runs(root: Path) -> None:
    """Tested runs of two arms with two seeds each."""
    for name in ("full-1", "full-2", "plain-1", "plain-2"):
        folder = root / name
        folder.mkdir()
        rng = np.random.default_rng(int(name[-1]))
        nodules = {
            "name": [f"n{k}" for k in range(6)],
            "patient_id": [f"P{k}" for k in range(6)],
            "subtype": [*SUBTYPES] * 2,
            "diameter_mm": np.linspace(4, 20, 6),
            "w1_first": rng.normal(70, 20, 6),
        }
        pd.DataFrame(nodules).to_csv(folder / "nodules.csv", index=False)
        common = {"split": "test", "step": 10, "samples": 6, "evaluations": 20, "data": "abc"}
        row = {"metric": "fid", "figure": "fid", "value": 5.0, "provenance": "network: x"}
        pd.DataFrame([row | common]).to_csv(folder / "generation.csv", index=False)


def two_stores(root: Path) -> None:
    """Real nodules, and synthetic ones of the same patients."""
    store(root / "real", 12)
    store(root / "synthetic", 6)


def nothing(root: Path) -> None:
    """What a command needs that makes its inputs itself."""
    (root / "nothing.txt").write_text("")
