"""portal: people's requests -> `observer.*`, `bots.portfolio.*` and the `sessions` bucket -> pages and JSON."""

from __future__ import annotations

from portal import access
from portal.admin import Admin
from portal.store import Store
from runtime import web
from runtime.process import Process, run
from runtime.settings import Common, Port, Settings, SettingsError
from runtime.vocabulary import Figure, Vocabulary

FIGURES: Vocabulary = {
    "requests_total": Figure("Requests answered, by class of HTTP status", {"status": ("2xx", "3xx", "4xx", "5xx")}),
    "requests_refused_total": Figure(
        "Requests refused, by reason",
        {"reason": tuple(verdict.name.lower() for verdict in access.Access if verdict is not access.Access.ALLOWED)},
    ),
    "logins_total": Figure(
        "One-time links opened, and admin tokens and sessions' cookies that came with a request, by outcome",
        {"way": ("link", "token", "cookie"), "outcome": ("accepted", "refused")},
    ),
    "observer_silent_total": "Questions that observer did not answer in time",
    "bots_silent_total": "Questions that bots did not answer in time",
    "handler_errors_total": "Requests that failed through a fault of ours",
}


class PortalSettings(Settings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What only portal needs.

    host: where the pages listen.
    port: their port; 0 takes a free one and logs it.
    admin_token: what X-Admin-Token must say; without one the one-time links are the only way in.
    behind_tls: whether a proxy in front speaks TLS; cookies are bound to it then.
    """

    host: str = "127.0.0.1"
    port: Port = 5001
    admin_token: str = ""
    behind_tls: bool = False

    def check(self, common: Common) -> None:
        try:
            access.parse_networks(common.admin_allowed_ips)
        except ValueError as error:
            raise SettingsError(f"MINTLINE_ADMIN_ALLOWED_IPS: {error}") from None


async def main(process: Process, settings: PortalSettings) -> None:
    admin = Admin(
        process.bus,
        Store(process.bus),
        process.figures,
        process.log,
        token=settings.admin_token,
        networks=access.parse_networks(process.common.admin_allowed_ips),
        behind_tls=settings.behind_tls,
        link_hint=f"mintline link --base http://localhost:{settings.port}",
        partitions=process.common.partitions,
    )

    def on_error(path: str, error: BaseException) -> None:
        process.figures.add("handler_errors_total")
        process.log.error("handler_failed", path=path, reason=f"{type(error).__name__}: {error}")

    server = await web.serve(admin.routes(), settings.host, settings.port, middleware=admin.guard, on_error=on_error)
    process.log.info("listening", host=settings.host, port=server.port)
    process.ready(True)
    try:
        await process.stop.wait()
    finally:
        await server.close()


def cli() -> None:
    run("portal", main, PortalSettings, FIGURES)


if __name__ == "__main__":
    cli()
