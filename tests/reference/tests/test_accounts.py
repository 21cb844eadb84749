"""Accounts, transfers and tenants: what is committed, and for whom."""

import anyio
import httpx2
import pytest
from fastapi.testclient import TestClient


def transfer(reference: str) -> dict[str, object]:
    return {"reference": reference, "source": 1, "target": 2, "amount": 5}


def test_accounts_need_the_token(client: TestClient) -> None:
    none = client.get("/accounts/1")
    wrong = client.get("/accounts/1", headers={"Authorization": "Bearer guess"})

    assert [none.status_code, wrong.status_code] == [401, 401]
    assert none.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/transfers", "/async-transfers"])
def test_a_transfer_moves_an_amount(member: TestClient, path: str) -> None:
    for name in ("rent", "food"):
        opened = member.post("/accounts", json={"tenant": "acme", "name": name})
        assert opened.status_code == 201

    assert member.post(path, json=transfer("x")).status_code == 201

    assert member.get("/accounts/1").json() == {"id": 1, "name": "rent", "balance": -5}
    assert member.get("/accounts/2").json() == {"id": 2, "name": "food", "balance": 5}
    assert member.get("/entries", params={"reference": "x"}).json() == [-5, 5]


def test_a_tenant_sees_only_its_own_accounts(member: TestClient) -> None:
    for tenant, name in [("acme", "rent"), ("other", "food")]:
        member.post("/accounts", json={"tenant": tenant, "name": name})

    assert member.get("/tenants/acme/accounts").json() == ["rent"]
    assert member.get("/tenants/nowhere/accounts").json() == []


@pytest.mark.anyio
async def test_more_transfers_than_connections_are_all_made(
    async_client: httpx2.AsyncClient,
) -> None:
    responses: list[int] = []

    async def post(path: str, number: int) -> None:
        response = await async_client.post(path, json=transfer(f"{path}{number}"))
        responses.append(response.status_code)

    async with anyio.create_task_group() as tasks:
        for number in range(20):
            tasks.start_soon(post, "/transfers", number)
            tasks.start_soon(post, "/async-transfers", number)

    assert responses == [201] * 40
    for path in ("/transfers", "/async-transfers"):
        entries = await async_client.get("/entries", params={"reference": f"{path}19"})
        assert entries.json() == [-5, 5]
