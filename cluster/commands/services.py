"""`up`, `down`, `status`, `doctor`, `config` and `submit`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from enchanted.cluster import console
from enchanted.cluster.commands.reading_access import TokenOption, UrlOption, api
from enchanted.cluster.errors import CHECK_FAILED, UNREACHABLE

if TYPE_CHECKING:
    from enchanted.cluster.services import Status
    from enchanted.cluster.state import Endpoints

JSON = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


def register(app: typer.Typer) -> None:
    """Add these commands to ``app``."""
    app.command()(up)
    app.command()(down)
    app.command()(status)
    app.command()(doctor)
    app.command("open")(open_)
    app.command()(submit)
    config = typer.Typer(help="What is set, and where.", no_args_is_help=True, rich_markup_mode=None)
    config.command("show")(config_show)
    app.add_typer(config, name="config")


def up(as_json: JSON = False) -> None:
    """Start the services, Ray and the API; returns when all are healthy."""
    from enchanted.cluster import services

    endpoints = asyncio.run(services.up(console.settings(), console.say))
    if as_json:
        console.emit_json(_public(endpoints))
        return
    console.emit(f"API        {endpoints.api_url}")
    console.emit(f"Dashboard  {endpoints.ray_dashboard_url or '-'}")
    console.emit(f"Token      {endpoints.token_file}")


def _public(endpoints: Endpoints) -> dict[str, str]:
    return endpoints.as_dict()


def down() -> None:
    """Stop everything that `up` started for this home."""
    from enchanted.cluster import services

    settings = console.settings()
    ran = asyncio.run(services.down(settings, console.say))
    console.say("stopped" if ran else f"nothing runs for {settings.home}")


def status(as_json: JSON = False) -> None:
    """Show what runs. Exit code 0 healthy, 1 degraded or starting, 4 stopped."""
    from enchanted.cluster import services

    found = asyncio.run(services.status(console.settings()))
    if as_json:
        console.emit_json(found.as_dict())
    else:
        _print_status(found)
    if not found.healthy:
        raise typer.Exit(UNREACHABLE if found.state.phase in ("stopped", "failed") else CHECK_FAILED)


def _print_status(found: Status) -> None:
    rows = [(s.name, s.state, s.pid, s.port or None, s.restarts, s.detail) for s in found.services]
    console.emit_table(("service", "state", "pid", "port", "restarts", ""), rows)
    console.say(f"{found.state.phase}, home {found.home}")
    for note in found.state.notes:
        console.say(f"note: {note}")
    if found.state.failure:
        console.say(f"cause: {found.state.failure.cause}")
        console.say(f"remedy: {found.state.failure.remedy}")
    endpoints = found.state.endpoints
    if found.healthy and endpoints:
        console.say(f"API {endpoints.api_url}, token in {endpoints.token_file}")
        if endpoints.ray_token_file:
            console.say(
                f"for `ray job submit`: RAY_API_SERVER_ADDRESS={endpoints.ray_dashboard_url} RAY_AUTH_MODE=token "
                f"RAY_AUTH_TOKEN_PATH={endpoints.ray_token_file}"
            )


def open_(
    run: Annotated[str, typer.Argument(help="Run to show; without one the list of runs.", show_default=False)] = "",
    as_json: JSON = False,
    url: UrlOption = None,
    token_file: TokenOption = None,
) -> None:
    """Print a link to Mission Control; it is good once and for ten minutes."""
    with api(url, token_file) as client:
        if run:
            client.run(run)
        link = client.page(run)
    console.emit_json({"url": link}) if as_json else console.emit(link)


def doctor(as_json: JSON = False) -> None:
    """Check what the services and agents need. Exit code 1 when something is missing."""
    from enchanted.cluster import doctor as checks

    results = checks.examine(console.settings())
    if as_json:
        console.emit_json({"schema_version": 1, "checks": [result.as_dict() for result in results]})
    else:
        console.emit_table(("check", "", "found", "remedy"), [(r.name, r.verdict, r.found, r.remedy) for r in results])
    if any(result.verdict == "missing" for result in results):
        raise typer.Exit(CHECK_FAILED)


def config_show(
    origin: Annotated[bool, typer.Option("--origin", help="Show where each value was set.")] = False,
    as_json: JSON = False,
) -> None:
    """Every setting and its value."""
    items = list(console.loaded_settings().items())
    if as_json:
        table = {name: {"value": value, "origin": where} if origin else value for name, value, where in items}
        console.emit_json({"schema_version": 1, "settings": table})
        return
    columns = ("setting", "value", "origin") if origin else ("setting", "value")
    console.emit_table(columns, [item[: len(columns)] for item in items])


def submit(
    arguments: Annotated[list[str], typer.Argument(metavar="COMMAND...", help="What to run, after `--`.")],
    working_dir: Annotated[Path, typer.Option(help="Folder to upload.", exists=True, file_okay=False)] = Path(),
    address: Annotated[str | None, typer.Option(help="Jobs API; default the running Ray's.")] = None,
    wait: Annotated[bool, typer.Option(help="Follow the log until the job ends.")] = True,
) -> None:
    """Submit a job to Ray: `enchanted submit -- run "fix the tests" --repo /path`."""
    from enchanted.cluster import submit as jobs

    raise typer.Exit(jobs.submit(console.settings(), arguments, working_dir=working_dir, address=address, wait=wait))
