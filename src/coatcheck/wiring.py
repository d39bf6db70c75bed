"""The only place that constructs things: settings in, a running gateway out."""

import asyncio
import gc
import random
import signal
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import structlog
import uvloop

from coatcheck.api.app import create_app
from coatcheck.api.gateway import Gateway
from coatcheck.api.server import make_server
from coatcheck.breaker import Breaker
from coatcheck.clock import Clock, SystemClock
from coatcheck.config import KNOWN_SECRETS, Settings, SettingsError, digest_secret_of
from coatcheck.correspondence import Correspondence
from coatcheck.disputes import Disputes
from coatcheck.executor import Executor, RetryPolicy
from coatcheck.failpoints import CALM, Failpoints
from coatcheck.inbox import Inbox
from coatcheck.maturing import Maturing
from coatcheck.metrics import Metrics
from coatcheck.operations import Operations
from coatcheck.payments import Acts, Payments
from coatcheck.payouts import Payees, PayoutRuns, Payouts
from coatcheck.presence import Presence
from coatcheck.providers.protocol import Provider, WebhookReader
from coatcheck.providers.simulated import SimulatedProvider
from coatcheck.providers.simulated_settlements import SimulatedSettlements
from coatcheck.providers.webhooks_adyen import AdyenWebhooks
from coatcheck.providers.webhooks_simulated import SimulatedWebhooks
from coatcheck.reconciliation.adoption import Adoption
from coatcheck.reconciliation.arrivals import Arrivals
from coatcheck.reconciliation.breaks import Breaks
from coatcheck.reconciliation.corrections import Corrections
from coatcheck.reconciliation.expected import expected_files_of
from coatcheck.reconciliation.nightly import Nightly, nightly_plan_of
from coatcheck.reconciliation.payout_adoption import PayoutAdoption
from coatcheck.reconciliation.recovery import Recovery
from coatcheck.reconciliation.rules import rules_of
from coatcheck.reconciliation.usual import usual_of
from coatcheck.refunds import Refunds
from coatcheck.reporting.account_statements import AccountStatements
from coatcheck.risk import Assessor, risk_settings_of
from coatcheck.seller_terms import usual_terms_of
from coatcheck.shops import KeyRing
from coatcheck.states import Mode
from coatcheck.store import Store
from coatcheck.store import open_store as open_database
from coatcheck.upkeep import Upkeep
from coatcheck.watcher import Watcher, WatchLimits

if TYPE_CHECKING:
    from coatcheck.audit.sealing.sealer import Sealer

log = structlog.get_logger("coatcheck")


def open_store(settings: Settings) -> AbstractAsyncContextManager[Store]:
    """Open the database the settings name, migrated to this release."""
    return open_database(settings.database_url, settings.data_dir, pool_size=settings.database_pool_size)


def make_providers(settings: Settings) -> dict[str, Provider]:
    """Construct the adapter of every provider that has its settings.

    New payments go to `settings.provider`; the others are still asked about the operations they were given.
    """
    providers: dict[str, Provider] = {"simulator": _make_simulated(settings)}
    if settings.stripe_api_key is not None:
        # The SDK takes a tenth of a start's processor time: a gateway without Stripe does without it.
        from coatcheck.providers.stripe import StripeProvider  # noqa: PLC0415

        providers["stripe"] = StripeProvider(
            settings.stripe_api_key,
            base_url=settings.stripe_base_url,
            call_deadline_s=settings.call_deadline_s,
            connect_deadline_s=settings.connect_deadline_s,
            idempotency_window=timedelta(seconds=settings.stripe_window_s),
        )
    return providers


def _make_simulated(settings: Settings) -> Provider:
    return SimulatedProvider(
        settings.simulator_url,
        settings.simulator_api_key,
        call_deadline_s=settings.call_deadline_s,
        connect_deadline_s=settings.connect_deadline_s,
        idempotency_window=timedelta(seconds=settings.simulator_window_s),
    )


def _make_breaker(settings: Settings, clock: Clock) -> Breaker:
    return Breaker(clock, threshold=settings.breaker_threshold, pause=timedelta(seconds=settings.breaker_pause_s))


def make_webhook_readers(settings: Settings) -> dict[tuple[str, Mode], WebhookReader]:
    """Construct what proves and reads the webhooks of every provider that has a secret for them.

    A secret is bound to the account and mode of the API key that stands beside it (hazard C10). The simulator's, as it
    is delivered, is known to everybody: where payments go to another provider it opens no address.
    """
    readers: list[tuple[Mode, WebhookReader]] = []
    is_known = settings.simulator_webhook_secrets == KNOWN_SECRETS
    if settings.simulator_webhook_secrets and (settings.provider == "simulator" or not is_known):
        _, _, world, account = settings.simulator_api_key.split("_", 3)
        mode = Mode(world)
        readers.append((mode, SimulatedWebhooks(settings.simulator_webhook_secrets, account, mode)))
    if settings.stripe_webhook_secrets and settings.stripe_api_key is not None:
        from coatcheck.providers.webhooks_stripe import StripeWebhooks  # noqa: PLC0415 - it needs the SDK

        mode = Mode(settings.stripe_api_key.split("_")[1])
        readers.append((mode, StripeWebhooks(settings.stripe_webhook_secrets, mode)))
    if settings.adyen_hmac_keys and settings.adyen_merchant_account is not None:
        mode = Mode(settings.adyen_mode)
        readers.append((mode, AdyenWebhooks(settings.adyen_hmac_keys, settings.adyen_merchant_account, mode)))
    return {(reader.name, mode): reader for mode, reader in readers}


def make_gateway(
    settings: Settings,
    store: Store,
    providers: Mapping[str, Provider],
    *,
    clock: Clock | None = None,
    dice: random.Random | None = None,
    failpoints: Failpoints = CALM,
) -> Gateway:
    """Put a gateway together on an open store; new payments go to the provider the settings name.

    `holder` names this process in the leases it takes.
    """
    clock = clock or SystemClock()
    holder = uuid4()
    lease = timedelta(seconds=settings.lease_s)
    metrics = Metrics()
    payments = Payments(
        store,
        clock,
        provider=providers[settings.provider],
        assessor=Assessor(
            store,
            clock,
            risk_settings_of(settings),
            digest_secret_of(settings),
            batch_size=settings.batch_size,
            observe=metrics.batch_observer("risk"),
        ),
        holder=holder,
        lease=lease,
        key_life=timedelta(seconds=settings.idempotency_key_life_s),
        batch_size=settings.batch_size,
        metrics=metrics,
        refunds_late=settings.late_success == "refund",
        failpoints=failpoints,
    )
    operations = Operations(
        store, clock, holder=holder, lease=lease, batch_size=settings.batch_size, failpoints=failpoints
    )
    payouts = Payouts(store, clock, operations, batch_size=settings.batch_size, failpoints=failpoints)
    executor = Executor(
        clock=clock,
        payments=payments,
        payouts=payouts,
        operations=operations,
        providers=providers,
        policy=RetryPolicy(
            budget_attempts=settings.retry_budget_attempts,
            base=timedelta(milliseconds=settings.retry_base_ms),
            cap=timedelta(seconds=settings.retry_cap_s),
        ),
        metrics=metrics,
        breakers={name: _make_breaker(settings, clock) for name in providers},
        recovery_in_flight=settings.recovery_in_flight,
        dice=dice,
        failpoints=failpoints,
    )
    refunds = Refunds(
        store,
        clock,
        operations,
        returns_commission=settings.refund_commission == "return",
        failpoints=failpoints,
    )
    disputes = Disputes(store, clock)
    correspondence = Correspondence(disputes, clock, providers=providers, lease=lease)
    payout_runs = PayoutRuns(
        store,
        clock,
        payouts,
        factor=settings.payout_run_factor,
        history=settings.payout_run_history,
        failpoints=failpoints,
    )
    readers = make_webhook_readers(settings)
    inbox = Inbox(
        store,
        clock,
        readers=readers,
        operations=operations,
        executor=executor,
        correspondence=correspondence,
        metrics=metrics,
        batch_size=settings.batch_size,
        failpoints=failpoints,
    )
    expected_files = expected_files_of(settings, store, clock)
    adoption = Adoption(
        store,
        clock,
        payments=payments,
        operations=operations,
        executor=executor,
        providers=providers,
        returns_commission=settings.refund_commission == "return",
    )
    corrections = Corrections(
        store,
        clock,
        operations,
        executor,
        adoption=adoption,
        refunds=refunds,
        unrecorded=settings.unrecorded_charge,
    )
    return Gateway(
        settings=settings,
        clock=clock,
        store=store,
        keys=KeyRing(store, clock),
        payments=payments,
        acts=Acts(store, clock, operations, failpoints=failpoints),
        refunds=refunds,
        payouts=payouts,
        payees=Payees(
            store,
            clock,
            providers=providers,
            default=settings.provider,
            cooldown=timedelta(seconds=settings.payout_destination_cooldown_s),
        ),
        payout_runs=payout_runs,
        operations=operations,
        executor=executor,
        inbox=inbox,
        disputes=disputes,
        correspondence=correspondence,
        upkeep=Upkeep(operations, executor, refunds, correspondence, payout_runs, failpoints=failpoints),
        arrivals=Arrivals(
            store,
            clock,
            corrections=corrections,
            rules=rules_of(settings),
            usual=usual_of(settings),
            expected=expected_files,
        ),
        expected_files=expected_files,
        adoption=adoption,
        corrections=corrections,
        breaks=Breaks(store, clock),
        recovery=Recovery(
            store,
            clock,
            operations=operations,
            executor=executor,
            adoption=adoption,
            payout_adoption=PayoutAdoption(
                store, clock, payouts=payouts, operations=operations, executor=executor, adoption=adoption
            ),
            disputes=disputes,
            provider=settings.provider,
        ),
        maturing=Maturing(store, clock, usual_terms_of(settings), metrics),
        webhooks=readers,
        metrics=metrics,
        stopping=asyncio.Event(),
        failpoints=failpoints,
        providers=providers,
    )


def make_presence(gateway: Gateway) -> Presence:
    """Construct what says that this process lives, and takes notice of those that do not any more."""
    keeping = [name for name, each in gateway.providers.items() if not each.capabilities.look_up_before_resend]
    return Presence(gateway.store, gateway.clock, holder=gateway.operations.holder, providers=keeping)


def make_watcher(gateway: Gateway) -> Watcher:
    """Construct what looks for trouble in a gateway's database."""
    settings = gateway.settings
    return Watcher(
        gateway.store,
        gateway.clock,
        capabilities={name: provider.capabilities for name, provider in gateway.providers.items()},
        metrics=gateway.metrics,
        limits=WatchLimits(
            stuck=timedelta(seconds=settings.watch_stuck_s),
            overdue=timedelta(seconds=settings.watch_overdue_s),
            expiring=timedelta(seconds=settings.watch_expiring_s),
            transaction=timedelta(seconds=settings.watch_transaction_s),
            invariants=timedelta(seconds=settings.invariants_interval_s),
            evidence_due=timedelta(seconds=settings.watch_evidence_due_s),
        ),
    )


def make_nightly(gateway: Gateway) -> Nightly | None:
    """Construct what takes the files of the settings' shop by itself; None where the settings name none."""
    settings = gateway.settings
    plan = nightly_plan_of(settings)
    if plan is None:
        return None
    simulator = SimulatedSettlements(
        settings.simulator_url,
        settings.simulator_api_key,
        deadline_s=settings.settlement_deadline_s,
        limit_bytes=settings.settlement_limit_bytes,
    )
    return Nightly(
        gateway.store,
        gateway.clock,
        plan,
        arrivals=gateway.arrivals,
        expected=gateway.expected_files,
        sources=[simulator] if settings.settlement_from_simulator else [],
    )


def make_sealer(gateway: Gateway) -> "Sealer | None":
    """Construct what seals events and transfers; None where the settings say never.

    Makes the sealing key at first use. Raises SettingsError when the key or the anchor cannot be used.
    """
    settings = gateway.settings
    if not settings.seal_interval_ms:
        return None
    # What signs takes a part of a start's time: a command that seals nothing does without it.
    from coatcheck.audit.sealing.anchor import AnchorEndpoint, AnchorFile  # noqa: PLC0415
    from coatcheck.audit.sealing.keys import sealing_key_of  # noqa: PLC0415
    from coatcheck.audit.sealing.places import places_of  # noqa: PLC0415
    from coatcheck.audit.sealing.sealer import Sealer  # noqa: PLC0415

    places = places_of(settings)
    anchor = AnchorFile(places.anchor)
    key = sealing_key_of(places.key)
    anchor.prepare()
    endpoint = None if settings.seal_endpoint is None else AnchorEndpoint(settings.seal_endpoint, places.posted)
    return Sealer(gateway.store, gateway.clock, key=key, anchor=anchor, endpoint=endpoint, metrics=gateway.metrics)


@asynccontextmanager
async def open_desk(settings: Settings) -> AsyncIterator[Gateway]:
    """Open a gateway for one thing that a person asks of it: it takes over no work of its own accord."""
    async with open_store(settings) as store:
        providers = make_providers(settings)
        gateway = make_gateway(settings, store, providers)
        async with make_presence(gateway).shown():
            try:
                yield gateway
            finally:
                await gateway.executor.stop(timedelta(seconds=settings.shutdown_grace_s))
        for provider in providers.values():
            await provider.close()


@asynccontextmanager
async def open_gateway(
    settings: Settings, *, clock: Clock | None = None, failpoints: Failpoints = CALM
) -> AsyncIterator[Gateway]:
    """Open everything a gateway needs and start its work in the background; on the way out finish what is in flight."""
    async with open_store(settings) as store:
        providers = make_providers(settings)
        async with at_work(make_gateway(settings, store, providers, clock=clock, failpoints=failpoints)) as gateway:
            yield gateway
        for provider in providers.values():
            await provider.close()


@asynccontextmanager
async def at_work(gateway: Gateway) -> AsyncIterator[Gateway]:
    """Let a gateway do what nobody asks for: recovery, webhooks, upkeep, watch, seals. It ends as by SIGTERM."""
    async with make_presence(gateway).shown(), _loops_of(gateway):
        yield gateway


@asynccontextmanager
async def _loops_of(gateway: Gateway) -> AsyncIterator[None]:
    settings = gateway.settings
    recovery = timedelta(milliseconds=settings.recovery_interval_ms)
    upkeep = timedelta(milliseconds=settings.upkeep_interval_ms)
    sealer = make_sealer(gateway)
    if sealer is not None:
        await sealer.expect()  # before the watcher's first look
    loops = [
        asyncio.create_task(gateway.executor.recover(recovery)),
        asyncio.create_task(gateway.inbox.work(recovery, gateway.stopping)),
        asyncio.create_task(gateway.upkeep.tend(upkeep, gateway.stopping)),
        asyncio.create_task(gateway.arrivals.finish(timedelta(seconds=settings.watch_interval_s), gateway.stopping)),
        asyncio.create_task(gateway.maturing.work(timedelta(seconds=settings.maturing_interval_s), gateway.stopping)),
        asyncio.create_task(AccountStatements(gateway.store, gateway.clock).keep(gateway.stopping)),
        asyncio.create_task(
            make_watcher(gateway).watch(timedelta(seconds=settings.watch_interval_s), gateway.stopping)
        ),
    ]
    nightly = make_nightly(gateway)
    if nightly is not None:
        loops.append(asyncio.create_task(nightly.tend(timedelta(seconds=settings.watch_interval_s), gateway.stopping)))
    if sealer is not None:
        seal = timedelta(milliseconds=settings.seal_interval_ms)
        loops.append(asyncio.create_task(sealer.seal(seal, gateway.stopping)))
    try:
        yield
    finally:
        gateway.stopping.set()
        await gateway.executor.stop(timedelta(seconds=settings.shutdown_grace_s))
        await gateway.correspondence.quiet()
        await asyncio.gather(*loops)


def serve(settings: Settings, *, clock: Clock | None = None, failpoints: Failpoints = CALM) -> int:
    """Run the gateway until SIGTERM or SIGINT. Returns the exit status."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, clock, failpoints))
    log.info("stopped")
    return 0


async def _serve(settings: Settings, clock: Clock | None, failpoints: Failpoints) -> None:
    listening = _listen(settings.host, settings.port)
    async with open_gateway(settings, clock=clock, failpoints=failpoints) as gateway:
        server = make_server(create_app(gateway), grace_s=settings.shutdown_grace_s)

        def stop() -> None:
            log.info("stopping", in_flight=gateway.executor.in_flight, grace_s=settings.shutdown_grace_s)
            gateway.stopping.set()
            gateway.executor.stop_claiming()
            server.should_exit = True
            # A second SIGTERM changes nothing, also in the moment when the loop has let go of its handlers.
            loop.remove_signal_handler(signal.SIGTERM)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        # What is alive now lives until the end: the collector need not look at it again with every request.
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)
        gc.enable()
        host, port = listening.getsockname()[:2]
        log.info(
            "ready", url=f"http://{host}:{port}", provider=settings.provider, schema=f"http://{host}:{port}/schema"
        )
        await server.serve(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise SettingsError(
            [f"cannot listen on {host}:{port} ({error.strerror}): stop what uses it, or choose another with --port"]
        ) from error
    listening.listen(2048)
    return listening
