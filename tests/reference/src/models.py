"""Tables."""

from sqlalchemy import Engine, Index
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.schema import CreateIndex, CreateTable


class Base(DeclarativeBase):
    """Base of all tables."""


class Account(Base):
    """An account of a tenant."""

    __tablename__ = "accounts"

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    name: Mapped[str]


class Entry(Base):
    """A debit or credit; the entries of one transfer share its reference and add up to 0."""

    __tablename__ = "entries"
    __table_args__ = (Index("entries_reference", "reference"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    account: Mapped[int]
    amount: Mapped[int]
    reference: Mapped[str]


class Notice(Base):
    """A notice that a background task has sent."""

    __tablename__ = "notices"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


def create_tables(engine: Engine) -> None:
    """Create missing tables; safe in several processes at once, unlike `create_all`."""
    with engine.begin() as connection:
        for table in Base.metadata.sorted_tables:
            connection.execute(CreateTable(table, if_not_exists=True))
            for index in table.indexes:
                connection.execute(CreateIndex(index, if_not_exists=True))
