"""Rows of a table that takes long: each is on disk as soon as it is there, and a later start goes on from them."""

import json
import pathlib
from typing import Any

from equiscale.training.run_folder import write_json


class KeptRows:
    """Rows measured with the same `settings`, which they hold, in the file at `path`; those of others are left."""

    def __init__(self, path: pathlib.Path, settings: dict[str, Any]):
        self.path, self.settings = path, settings
        known = json.loads(path.read_text()) if path.exists() else []
        self.rows = [row for row in known if settings.items() <= row.items()]

    def has(self, known: dict[str, Any]) -> bool:
        """Whether there is a row of which so much is known before it is measured."""
        return any(known.items() <= row.items() for row in self.rows)

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row | self.settings)
        write_json(self.path, self.rows)
