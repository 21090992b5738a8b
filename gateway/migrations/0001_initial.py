"""The first schema. Until the first release it follows `gateway.model`; from then on it is frozen."""

from typing import Any

from gateway import postgres, sqlite
from gateway.model import TABLES


def up(migrator: Any, db: Any) -> None:
    db.create_tables(TABLES)
    (sqlite if db.param == "?" else postgres).complete_schema(db)
