"""`POST /webhooks/{provider}`: what a PSP tells us. Proven on the raw bytes, committed, and only then answered."""

from typing import Any

from litestar import Request, Response, post

from coatcheck.api.edge import read_body
from coatcheck.api.gateway import gateway_of
from coatcheck.errors import CoatcheckError, ErrorCode
from coatcheck.providers.protocol import WebhookRefusedError

_ACCEPTED = b"[accepted]"  # the word Adyen's older endpoints wait for; the others only look at the status


@post("/webhooks/{provider:str}", status_code=200)
async def receive_webhook(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Take a provider's events: 200 once they are stored, whatever they say; they are handled afterwards."""
    gateway = gateway_of(request)
    provider = request.path_params["provider"]
    readers = {mode: reader for (name, mode), reader in gateway.webhooks.items() if name == provider}
    if not readers:
        raise CoatcheckError(
            ErrorCode.NOT_FOUND, "Webhooks of this provider are not configured: set its webhook secret."
        )
    settings = gateway.settings
    raw = await read_body(
        request.receive, limit_bytes=settings.webhook_limit_bytes, deadline_s=settings.body_deadline_s
    )
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in request.scope["headers"]}
    refused = ""
    for mode, reader in readers.items():
        try:
            events = reader.receive(headers, raw, gateway.clock.now())
        except WebhookRefusedError as error:
            refused = str(error)
            continue
        await gateway.inbox.store(provider, mode, headers, events)
        return Response(_ACCEPTED, media_type="text/plain")
    gateway.metrics.webhooks_refused.inc()
    raise CoatcheckError(ErrorCode.WEBHOOK_REFUSED, f"{refused} Check the endpoint's secret in the settings.")
