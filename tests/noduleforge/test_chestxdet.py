import sys
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage

from noduleforge.cli import main

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from printed import printed


def test_films_are_found_by_what_they_show(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    root, films = tmp_path / "CXR14/images_001", tmp_path / "films"
    root.mkdir(parents=True)
    films.mkdir()
    for number in range(6):
        blobs = ndimage.gaussian_filter(rng.normal(size=(128, 128)), 8)
        grey = (128 + 100 * blobs / np.abs(blobs).max()).astype(np.uint8)
        Image.fromarray(grey).save(root / f"0000000{number}_000.png")
        if number < 3:  # saved again in another way
            noisy = grey + rng.integers(-1, 2, grey.shape)
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(films / f"3620{number}.png")
    Image.fromarray(grey).save(root / "00000009_000.png")  # the same film under two names
    Image.fromarray(grey).save(films / "36209.png")
    Image.fromarray(rng.integers(0, 255, (128, 128), dtype=np.uint8)).save(films / "36210.png")
    (films / "36211.png").write_bytes(b"no picture")
    out = tmp_path / "out"
    places = {"CXR14": tmp_path / "CXR14", "CHESTXDET": films, "out": out}
    main(printed("prepare chestxdet", **places))
    table = pd.read_csv(out / "chestx_det.csv", dtype=str)
    expected = [[f"3620{n}.png", f"0000000{n}_000.png"] for n in range(3)]
    assert table[["image", "source_id"]].to_numpy().tolist() == expected
    report = (out / "report.csv").read_text()
    assert '36209.png,"is like several: 00000005_000.png, 00000009_000.png"' in report
    assert "36210.png,is like no image" in report
    assert "36211.png" in report
