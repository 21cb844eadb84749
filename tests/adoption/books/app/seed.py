from app.db.session import SessionLocal
from app.models.book import Book


def main():
    with SessionLocal() as session:
        session.add(Book(title="Emma"))
        session.commit()
