"""Reader studies of small data sets, their server, and readers who answer by chance or by rule."""

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from datamodules.io.volumes import Volume, read_volume, write_volume
from noduleforge.readers.answers import Answer, Answers
from noduleforge.readers.new import new_study
from noduleforge.readers.study import Study, read_study


def synthetic_of(store: Path, root: Path, seed: int = 1, even: bool = False) -> Path:
    """A data set of the same form with other noise, called synthetic; in even HU if asked."""
    shutil.copytree(store, root)
    table = pd.read_csv(root / "nodules.csv", dtype=str)
    rng = np.random.default_rng(seed)
    for name in table["image"]:
        image = read_volume(root / name)
        mask = read_volume(root / name.replace("images", "masks")).array > 0
        level = np.where(mask, np.median(image.array[mask]), -850)
        array = np.rint(level + rng.normal(0, 30, mask.shape))
        array = 2 * np.rint(array / 2) if even else array
        grid = (image.spacing_mm, image.origin_mm, image.direction)
        write_volume(root / name, Volume(array.astype(np.int16), *grid))
    table["nodule_id"] = "synthetic-" + table["nodule_id"]
    table.to_csv(root / "nodules.csv", index=False)
    return root


def small_study(store: Path, out: Path, **settings: object) -> Study:
    """A study of a store and its synthetic likeness."""
    synthetic = synthetic_of(store, out.parent / f"{out.name}-synthetic")
    known: dict[str, object] = {"tasks": ("real", "pairs"), "cases": 4, "practice": 1}
    new_study(store, synthetic, out, **{**known, **settings})  # type: ignore[arg-type]
    return read_study(out)


def answer_all(
    study: Study, reader: int, say: Callable[[dict, np.random.Generator], dict], seed: int = 0
) -> None:
    """Let a reader answer all cases by a rule."""
    rng = np.random.default_rng((seed, reader))
    answers, rows = Answers(study.root), study.cases.to_dict("records")
    given = [
        Answer(reader, case, position, say(rows[case], rng), int(rng.integers(2000, 9000)))
        for position, case in enumerate(study.order(reader))
    ]
    answers.replace(reader, given)


@contextmanager
def served(study: Study, readers: int = 2, port: int = 0) -> Iterator[tuple[str, list[str]]]:
    """Serve a study from a thread; gives its address and the readers' tokens."""
    import uvicorn

    from noduleforge.readers.serve import LOOPBACK, listening_socket
    from noduleforge.readers.server import application

    answers = Answers(study.root)
    with listening_socket(LOOPBACK, port) as listening:
        app = application(study, answers, readers, [LOOPBACK])
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.01)
            address = f"http://{LOOPBACK}:{listening.getsockname()[1]}"
            yield address, list(answers.tokens(readers).values())
        finally:
            server.should_exit = True
            thread.join()
