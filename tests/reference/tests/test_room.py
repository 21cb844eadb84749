"""The chat room and its streams."""

import pytest
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect


def test_each_member_hears_of_the_others(client: TestClient) -> None:
    with client.websocket_connect("/room?name=ada") as ada:
        assert ada.receive_text() == "ada joined"
        with client.websocket_connect("/room?name=ben") as ben:
            assert [ada.receive_text(), ben.receive_text()] == ["ben joined"] * 2
            ben.send_text("hello")
            assert [ada.receive_text(), ben.receive_text()] == ["ben: hello"] * 2
        assert ada.receive_text() == "ben left"


def test_a_member_without_a_name_is_refused(client: TestClient) -> None:
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/room"):
        pass


def test_a_message_without_a_socket_reaches_members(client: TestClient) -> None:
    with client.websocket_connect("/room?name=ada") as ada:
        ada.receive_text()
        assert client.post("/room", json={"text": "news"}).status_code == 204
        assert ada.receive_text() == "news"
