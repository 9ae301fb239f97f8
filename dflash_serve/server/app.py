"""``create_app``: routes, middleware and error answers around an engine client."""

from fastapi import APIRouter, FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route

from dflash_serve.engine.errors import EngineError
from dflash_serve.server import errors
from dflash_serve.server.context import ServerContext
from dflash_serve.server.doors.anthropic_errors import answer
from dflash_serve.server.errors import ApiError, shown
from dflash_serve.server.gates.stack import add_gates
from dflash_serve.server.routes import (
    admin,
    chat,
    completions,
    health,
    messages,
    models,
    responses,
    tokenize,
    version,
)
from dflash_serve.version import __version__

_ROUTING_ERRORS = {
    404: ("Unknown request URL", "unknown_url"),
    405: ("This URL does not take this method", "method_not_allowed"),
}
_ROUTES = (
    chat,
    completions,
    responses,
    messages,
    tokenize,
    models,
    health,
    version,
    admin,
)


def create_app(context: ServerContext) -> FastAPI:
    """The HTTP server. It neither starts nor closes the engine or the recorder."""
    app = FastAPI(
        title="dflash-serve", version=__version__, openapi_url=None, redirect_slashes=False
    )
    for module in _ROUTES:
        routes = module.router(context)
        _answer_head(routes)
        app.include_router(routes)
    _add_error_answers(app)
    add_gates(app, context)
    return app


def _answer_head(routes: APIRouter) -> None:
    """HEAD wherever there is GET; the web server leaves out the body."""
    for route in routes.routes:
        if isinstance(route, Route) and route.methods and "GET" in route.methods:
            route.methods.add("HEAD")


def _add_error_answers(app: FastAPI) -> None:
    def refuse(request: Request, error: ApiError) -> Response:
        return answer(error, request.scope["path"])

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> Response:
        return refuse(request, error)

    @app.exception_handler(EngineError)
    async def engine_error(request: Request, error: EngineError) -> Response:
        return refuse(request, errors.from_engine(error))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        text, code = _ROUTING_ERRORS.get(error.status_code, (str(error.detail), None))
        message = f"{text}: {request.method} {shown(request.scope['path'])}"
        return refuse(
            request, ApiError(error.status_code, message, code=code, headers=error.headers)
        )

    @app.exception_handler(ClientDisconnect)
    async def disconnect(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)  # nobody reads it

    @app.exception_handler(Exception)
    async def internal_error(request: Request, error: Exception) -> Response:
        # the traceback is logged by the web server, to which starlette passes it on
        return refuse(request, errors.internal())
