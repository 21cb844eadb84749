from fastapi import APIRouter, WebSocket, WebSocketDisconnect

router = APIRouter()


@router.websocket("/live")
async def live(socket: WebSocket):
    await socket.accept()
    socket.state.listeners.add(socket)
    try:
        while True:
            await socket.send_json({"echo": await socket.receive_text()})
    except WebSocketDisconnect:
        socket.state.listeners.discard(socket)
