"""The page at `/`, and what it asks for: coverage of the store, and the views of a sequence."""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import Response

from api.dependencies import ServicesDep
from api.page_schemas import CoverageTable, SequenceViews, ViewsRequest
from api.views import all_views, read_sequence

router = APIRouter(tags=["page"])

FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/web/page.css": ("page.css", "text/css; charset=utf-8"),
    "/web/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/web/plot.js": ("plot.js", "text/javascript; charset=utf-8"),
    "/web/icon.svg": ("icon.svg", "image/svg+xml"),
}
"""Path to file and media type: everything that the page is made of, the same for every store."""

HEADERS = {
    # nothing from elsewhere, nothing inline, and no other page may frame this one
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def _add_file(path: str, name: str, media_type: str) -> None:
    content = (files("api") / "web" / name).read_bytes()

    @router.get(path, include_in_schema=False)
    async def read_file() -> Response:
        return Response(content, headers=HEADERS, media_type=media_type)


for _path, (_name, _media_type) in FILES.items():
    _add_file(_path, _name, _media_type)


@router.get("/v1/coverage")
def read_coverage(services: ServicesDep) -> CoverageTable:
    """How many records of each collection each recipe has embedded."""
    return CoverageTable(coverage=services.coverage.rows())


@router.post("/v1/views")
def show_views(request: ViewsRequest, services: ServicesDep) -> SequenceViews:
    """What backbones read of a sequence: as mRNA, as DNA, translated, and as a coding sequence.

    A view that the sequence does not have says why; the others are there all the same.
    """
    record = read_sequence(
        request.sequence,
        request.molecule,
        services.settings.max_letters,
        request,
        request.coding_region,
    )
    return SequenceViews(
        molecule=record.molecule, letters=len(record.sequence), views=all_views(record)
    )
