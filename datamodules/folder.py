"""Any folder of radiographs without a nodule, described by a table."""

from pathlib import Path
from typing import Any, Literal

import pandas as pd

from datamodules.base import SPLITS, Split, check_no_patient_crosses, raise_together
from datamodules.radiographs import RadiographDataModule

COLUMNS = ("image", "patient_id", "spacing_mm")


class FolderDataModule(RadiographDataModule):
    """Films without a nodule, listed in a table.

    The table has the columns `image` (file relative to the folder), `patient_id` and `spacing_mm`
    (distance between pixels), and may have `split` (train, val or test), which then decides.
    """

    attributes = ()

    def __init__(
        self,
        root: Path,
        csv: str = "films.csv",
        content: Literal["nodules", "normal"] = "normal",
        **settings: Any,
    ) -> None:
        """Describe the folder.

        Args:
            root: folder with the table and the films, bone bright.
            csv: name of the table in `root`.
            content: `normal`; there are no nodules.
            settings: see `RadiographDataModule`.
        """
        super().__init__(content=content, **settings)
        self.root = Path(root)
        self.csv = csv

    def nodules(self) -> pd.DataFrame:
        """Refuse: the folder has no nodules.

        Raises:
            ValueError: Always.
        """
        message = (
            f"{self.root / self.csv} lists films without a nodule: set content to normal, or "
            "use the folder as hosts of SuperimposedDataModule"
        )
        raise ValueError(message)

    def normal_films(self) -> pd.DataFrame:
        """Read the table.

        Raises:
            FileNotFoundError: If there is no table.
            ValueError: If a column is missing or a value is out of its range.
        """
        path = self.root / self.csv
        if not path.is_file():
            message = f"{path} does not exist: check root and the table's name"
            raise FileNotFoundError(message)
        table = pd.read_csv(path, dtype={"image": str, "patient_id": str, "split": str})
        if missing := [name for name in COLUMNS if name not in table]:
            message = (
                f"{path} lacks the column(s) {missing} (found: {', '.join(table.columns)}): it "
                f"needs {', '.join(COLUMNS)}"
            )
            raise ValueError(message)
        spacing = pd.to_numeric(table["spacing_mm"], errors="coerce")
        errors = [
            f"{path}: spacing_mm of {row.image} is {row.spacing_mm!r}, expected a number above 0"
            for row in table[~(spacing > 0)].itertuples()
        ]
        for name in ("image", "patient_id"):
            lines = [str(line + 2) for line in table.index[table[name].isna()]]
            errors += [f"{path}: {name} is empty in line(s) {', '.join(lines)}"] if lines else []
        if "split" in table:
            errors += [
                f"{path}: split of {row.image} is {row.split!r}, expected one of {SPLITS}"
                for row in table[~table["split"].isin(SPLITS)].itertuples()
            ]
        raise_together(errors)
        return table.assign(
            name=table["image"].map(lambda name: Path(name).with_suffix("").as_posix()),
            path=table["image"].map(lambda name: self.root / name),
            spacing_mm=spacing.map(lambda value: (value, value)),
        )

    def split(self, table: pd.DataFrame) -> dict[Split, pd.DataFrame]:
        """Divide as the table says, or by patient."""
        if "split" not in table:
            return super().split(table)
        parts = {split: table[table["split"] == split] for split in SPLITS}
        check_no_patient_crosses({name: part["patient_id"] for name, part in parts.items()})
        return parts
