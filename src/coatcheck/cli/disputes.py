"""`disputes`: buyers' claims, and what is answered."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from coatcheck.cli.failures import UnusableError
from coatcheck.cli.opening import at_desk, settings_of, with_store
from coatcheck.cli.options import Tool, id_of, with_config, with_person
from coatcheck.cli.tables import print_table

if TYPE_CHECKING:
    from uuid import UUID

    from coatcheck.api.gateway import Gateway
    from coatcheck.disputes import DisputeView, EvidenceRequest, EvidenceView
    from coatcheck.providers.disputes import EvidenceFile
    from coatcheck.store import Store

_Result = TypeVar("_Result")

_STATUSES = ["INQUIRY", "NEEDS_RESPONSE", "UNDER_REVIEW", "WON", "LOST", "CLOSED"]
_TYPES = {".pdf": "application/pdf", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png"}


@click.group(cls=Tool, short_help="Buyers' claims: look, answer, give up.")
def disputes() -> None:
    """Look after disputes: what buyers claim at their banks, which money has moved, and what was answered."""


@disputes.command("list", short_help="List them, newest first.")
@click.option("--status", type=click.Choice(_STATUSES), help="Only those that stand so now.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="The most shown.")
@with_config
def list_disputes(*, status: str | None, limit: int, config: Path | None) -> int:
    """List the disputes of every shop, the newest first.

    \b
    Example:
      coatcheck disputes list --status NEEDS_RESPONSE
    """  # noqa: D301

    async def work(store: "Store") -> "list[DisputeView]":
        from coatcheck.clock import SystemClock  # noqa: PLC0415
        from coatcheck.disputes import DisputeQuery, Disputes  # noqa: PLC0415
        from coatcheck.states import DisputeStatus  # noqa: PLC0415

        query = DisputeQuery(status=None if status is None else DisputeStatus(status))
        return await Disputes(store, SystemClock()).find(query, limit=limit)

    found = with_store(settings_of(config), work)
    if not found:
        click.echo("There is no such dispute.")
        return 0
    rows = [
        (
            _printed(each),
            each.status.value,
            each.payment_order_id,
            _money(each.amount_minor, each.currency),
            each.reason or "-",
            "-" if each.evidence_due_at is None else f"{each.evidence_due_at:%Y-%m-%d %H:%M}",
        )
        for each in found
    ]
    print_table(("dispute", "status", "order", "amount", "reason", "answer by (UTC)"), rows)
    return 0


@disputes.command(short_help="Show one with its money and its answers.")
@click.argument("dispute_id", metavar="ID")
@with_config
def show(dispute_id: str, config: Path | None) -> int:
    """Show the dispute ID (dsp_...): how it stands, which money has moved, and what was answered."""

    async def work(store: "Store") -> "DisputeView":
        from coatcheck.clock import SystemClock  # noqa: PLC0415
        from coatcheck.disputes import Disputes  # noqa: PLC0415

        return _one(dispute_id, await Disputes(store, SystemClock()).read([_id(dispute_id)]))

    for line in _lines(with_store(settings_of(config), work)):
        click.echo(line)
    return 0


def _with_key(command: Callable[..., _Result]) -> Callable[..., _Result]:
    return click.option(
        "--key", metavar="TEXT", help="Names this answer, so that it is sent once; without it its content does."
    )(command)


@disputes.command(short_help="Answer one with texts and documents.")
@click.argument("dispute_id", metavar="ID")
@click.option("--text", "texts", multiple=True, metavar="PART=TEXT", help="What to say, such as explanation=...")
@click.option("--file", "files", multiple=True, metavar="PART=PATH", help="A PDF, JPEG or PNG, such as receipt=r.pdf")
@click.option("--draft", is_flag=True, help="Do not ask the provider to decide yet: more is to come.")
@_with_key
@with_person
@with_config
def answer(
    *,
    dispute_id: str,
    texts: tuple[str, ...],
    files: tuple[str, ...],
    draft: bool,
    key: str | None,
    by: str,
    config: Path | None,
) -> int:
    """Answer the dispute ID: it is written down, then passed on to the provider. The same again is sent once.

    \b
    Example:
      coatcheck disputes answer dsp_... --text explanation="signed for" --file receipt=r.pdf --by ada
    """  # noqa: D301
    from coatcheck.disputes import EvidenceRequest  # noqa: PLC0415
    from coatcheck.providers.disputes import EvidenceBody  # noqa: PLC0415
    from coatcheck.states import EvidenceKind  # noqa: PLC0415

    body = EvidenceBody(texts=_texts_of(texts), files=_files_of(files))
    if not body.texts and not body.files:
        raise click.UsageError("say something: --text PART=TEXT or --file PART=PATH")
    asked = EvidenceRequest(kind=EvidenceKind.EVIDENCE, body=body, ends_it=not draft)
    return _pass_on(dispute_id, asked, key, by, config)


@disputes.command(short_help="Give one up: the buyer keeps the money.")
@click.argument("dispute_id", metavar="ID")
@_with_key
@with_person
@with_config
def accept(*, dispute_id: str, key: str | None, by: str, config: Path | None) -> int:
    """Give the dispute ID up: the buyer keeps the money. It cannot be taken back."""
    from coatcheck.disputes import EvidenceRequest  # noqa: PLC0415
    from coatcheck.states import EvidenceKind  # noqa: PLC0415

    return _pass_on(dispute_id, EvidenceRequest(kind=EvidenceKind.ACCEPTANCE), key, by, config)


def _pass_on(dispute_id: str, asked: "EvidenceRequest", key: str | None, by: str, config: Path | None) -> int:
    async def work(gateway: "Gateway") -> "EvidenceView":
        from coatcheck.dead_letters import person_named  # noqa: PLC0415

        wanted = _id(dispute_id)
        view = _one(dispute_id, await gateway.disputes.read([wanted]))
        if not gateway.correspondence.can_answer(view.provider):
            raise UnusableError(f"this gateway has no way to answer at {view.provider}: use its dashboard")
        verdict, evidence_id = await gateway.correspondence.answer(
            wanted, asked, key=key or f"cli {asked.digest().hex()}", by=person_named(by)
        )
        if not verdict.is_good:
            raise UnusableError(f"{dispute_id} takes no such answer ({verdict.value}): it is {view.status.value}")
        await gateway.correspondence.quiet()
        (after,) = await gateway.disputes.read([wanted])
        return next(each for each in after.evidence if each.evidence_id == evidence_id)

    told = at_desk(settings_of(config), work)
    why = told.refusal_code or told.cause
    click.echo(f"{told.kind.value} {told.status.value}{f': {why}' if why else ''}")
    if told.status.value == "PENDING":
        click.echo("A gateway that runs goes on with it.")
    return 0


def _texts_of(given: tuple[str, ...]) -> dict[str, str]:
    from coatcheck.pan import contains_card_number  # noqa: PLC0415
    from coatcheck.providers.disputes import TEXT_PARTS  # noqa: PLC0415

    texts = dict(_pair(each, TEXT_PARTS) for each in given)
    if any(contains_card_number(text) for text in texts.values()):
        raise UnusableError("a text contains what looks like a card number: leave it out")
    return texts


def _files_of(given: tuple[str, ...]) -> "tuple[EvidenceFile, ...]":
    from coatcheck.providers.disputes import FILE_PARTS, EvidenceFile  # noqa: PLC0415

    files = []
    for part, name in (_pair(each, FILE_PARTS) for each in given):
        path = Path(name)
        kind = _TYPES.get(path.suffix.lower())
        if kind is None:
            raise click.UsageError(f"{name} is no {', '.join(sorted(_TYPES))}")
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UnusableError(f"cannot read {name}: {error.strerror}") from error
        files.append(EvidenceFile(part=part, name=path.name, content_type=kind, content=content))
    if len({each.part for each in files}) < len(files):
        raise click.UsageError("each part takes one file; put several documents into one PDF")
    return tuple(files)


def _pair(given: str, known: frozenset[str]) -> tuple[str, str]:
    part, _, said = given.partition("=")
    if part not in known or not said:
        raise click.UsageError(f"{given[:50]!r}: write PART=..., where PART is one of {', '.join(sorted(known))}")
    return part, said


def _id(text: str) -> "UUID":
    from coatcheck.ids import DISPUTE  # noqa: PLC0415

    return id_of(DISPUTE, text)


def _one(dispute_id: str, found: "list[DisputeView]") -> "DisputeView":
    if not found:
        raise UnusableError(f"there is no dispute {dispute_id}; `coatcheck disputes list` has them")
    return found[0]


def _printed(view: "DisputeView") -> str:
    from coatcheck.ids import DISPUTE, print_id  # noqa: PLC0415

    return print_id(DISPUTE, view.dispute_id)


def _money(minor: int, currency: str) -> str:
    from coatcheck.money import format_amount  # noqa: PLC0415

    return f"{format_amount(minor, currency)} {currency}"


def _lines(view: "DisputeView") -> Iterator[str]:
    yield f"{_printed(view)}, {view.mode.value} mode: {view.status.value}"
    yield f"  {view.provider} calls it {view.provider_reference}; {view.reason or 'no reason given'}"
    yield f"  {_money(view.amount_minor, view.currency)} of order {view.payment_order_id}, seller {view.seller_account}"
    if view.evidence_due_at is not None:
        yield f"  to be answered by {view.evidence_due_at:%Y-%m-%d %H:%M} UTC"
    for moved in view.movements:
        told = "taken" if moved.gross_minor < 0 else "given back"
        fee = f", fee {_money(moved.fee_minor, moved.currency)}" if moved.fee_minor else ""
        settled = "settled" if moved.is_settled else "in no settlement file yet"
        yield f"  {moved.moved_at:%Y-%m-%d}  {_money(abs(moved.gross_minor), moved.currency)} {told}{fee}; {settled}"
    for each in view.evidence:
        parts = ", ".join(part.part for part in each.parts) or "-"
        why = each.refusal_code or each.cause
        yield (
            f"  {each.created_at:%Y-%m-%d %H:%M}  {each.kind.value} ({parts}) by {each.requested_by}: "
            f"{each.status.value}{f': {why}' if why else ''}"
        )
