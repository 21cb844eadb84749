"""Exchange rates, from another service."""

import httpx2
from fastapi import APIRouter, HTTPException

from ..state import AppState

router = APIRouter(prefix="/rates", tags=["rates"])


@router.get("/{currency}")
async def read_rate(currency: str, state: AppState) -> float:
    """Read the rate of a currency; 502 when the other service does not answer."""
    try:
        response = await state["http"].get(state["settings"].rates_url)
        rates = response.raise_for_status().json()
    except httpx2.HTTPError as error:
        raise HTTPException(502, "No rates") from error
    if currency not in rates:
        raise HTTPException(404)
    return float(rates[currency])
