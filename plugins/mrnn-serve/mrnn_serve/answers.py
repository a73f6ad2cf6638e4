"""How endpoints answer: with a response, or with an error in the form of their API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from mrnn_runtime import MrnnError
from mrnn_serve.limits import Refusal, refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Endpoint = Callable[[Request], Awaitable[Response]]
    ErrorBody = Callable[[Refusal], object]

# Nobody receives it: the client left. nginx's number for that, for the log.
CLIENT_LEFT = 499


def native_error(error: Refusal) -> dict[str, str]:
    """Return an error as ``/v1/caption`` and whatever belongs to no other API tells it."""
    return {"error": error.message} | ({"hint": error.hint} if error.hint else {})


def refuse(error: Refusal, body: ErrorBody = native_error) -> Response:
    """Return the response of a refused request."""
    return JSONResponse(body(error), error.status, error.headers)


def answering(endpoint: Endpoint, body: ErrorBody = native_error) -> Endpoint:
    """Return an endpoint whose errors are answered in the form of its API."""

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except ClientDisconnect:
            return Response(status_code=CLIENT_LEFT)
        except MrnnError as error:
            return refuse(refusal(error), body)
        except Refusal as error:
            return refuse(error, body)

    return answer
