HEADERS = {"X-API-Key": "secret"}


def create(client, title):
    return client.post("/books", json={"title": title}, headers=HEADERS).json()
