"""`enchanted run` and `enchanted demo`: the main job."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from enchanted.actors.models.errors import BadModelUrl
from enchanted.actors.models.model import parse_model_url
from enchanted.actors.work import RoleName
from enchanted.cluster import console
from enchanted.cluster.commands.importing import RECORDED, take_in
from enchanted.cluster.commands.offering import offered
from enchanted.cluster.commands.reading_access import say_lost
from enchanted.cluster.commands.reading_text import one_line
from enchanted.cluster.commands.run_view import RunProgress, view_of
from enchanted.cluster.errors import CHECK_FAILED, DONE, INTERRUPTED, USAGE, CommandFailed, RepositoryRefused
from enchanted.cluster.home import refuse_foreign

if TYPE_CHECKING:
    from enchanted.cluster.settings import Settings
    from enchanted.serve.client import ApiClient

CANCEL_SECONDS = 60.0
LONGEST = 7 * 86_400
"""Seconds; what the API takes."""
LONGEST_REASON = 4_000
"""Characters of a verdict on a terminal; `--json` has all."""
DEMO_TASK = "make the checks pass without changing behaviour"
DEMO_CHECKS = ("ruff check .", "python -m unittest -q")
DEMO_PROJECT = Path(__file__).resolve().parent.parent / "demo" / "project"
ROLES: tuple[RoleName, ...] = get_args(RoleName)
DEFAULT_CHECKS = ("ruff check .",)
REPOSITORY_VARIABLES = (
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_COMMON_DIR", "GIT_PREFIX",
)  # fmt: skip
"""What git says to a hook of which repository it is; of those that `git rev-parse --local-env-vars` lists."""

ModelOption = Annotated[
    str | None, typer.Option(help="vllm:<hub id or folder>, openai:<base url>#<model>, or bundled.", show_default=False)
]
CodersOption = Annotated[int | None, typer.Option(min=1, max=64, help="Coders at work at once.", show_default=False)]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of every model call.")]
BudgetOption = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=LONGEST,
        help="Seconds the run may take; 0 is no limit. Default: the setting budget.seconds.",
        show_default=False,
    ),
]
VariableOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE[,VALUE...]",
        help="Variable that a Coder may set for the checks of its workspace, to one of these values; may be repeated.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="The verdict as one JSON document.")]


def run(
    task: Annotated[str, typer.Argument(help="What to do, in a sentence.", show_default=False)],
    repo: Annotated[Path, typer.Option(help="The git repository to work on.")] = Path(),
    check: Annotated[
        list[str] | None,
        typer.Option(
            help="Command that must exit 0 for a merge; may be repeated. Default: ruff check .", show_default=False
        ),
    ] = None,
    model: ModelOption = None,
    coders: CodersOption = None,
    seed: SeedOption = 0,
    budget: BudgetOption = None,
    variable: VariableOption = None,
    apply: Annotated[bool, typer.Option("--apply", help="Fast-forward the current branch to a merged result.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Print the run's id and return.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Plan, code, review and merge onto branch enchanted/<run id>."""
    if not task.strip():
        raise CommandFailed("the task is empty", "say in a sentence what is to be done", USAGE)
    folder = checked_repository(repo)
    settings = console.settings()
    body: dict[str, Any] = {
        "task": task,
        "repo": str(folder),
        "checks": list(check or DEFAULT_CHECKS),
        "coders": coders or settings.coders,
        "seed": seed,
        "apply": apply,
        "models": chosen_models(settings, model),
        "budget": {
            "model_calls_per_task": settings.budget.model_calls_per_task,
            "reworks_per_task": settings.budget.reworks_per_task,
            "seconds": settings.budget.seconds if budget is None else budget,
        },
    }
    if variable:
        body["variables"] = offered(variable)
    execute(settings, body, detach=detach, as_json=as_json)


def demo(
    model: ModelOption = None,
    coders: CodersOption = None,
    seed: SeedOption = 0,
    into: Annotated[
        Path | None, typer.Option(help="Scratch folder for the copy; default <home>/demo/<number>.", show_default=False)
    ] = None,
    recorded: Annotated[
        bool, typer.Option("--recorded", help="Show a run that was recorded before; no model is loaded.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """The main job on a small repository that ships with Enchanted, with the bundled model."""
    if recorded:
        take_in(RECORDED, as_json=as_json)
        return
    settings = console.settings()
    refuse_foreign(settings.home)
    folder = into or next_demo_folder(settings.home / "demo")
    copy_demo(folder)
    console.say(f"a copy of the demo repository is in {folder}")
    run(DEMO_TASK, folder, list(DEMO_CHECKS), model, coders, seed, as_json=as_json)


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("run")(run)
    app.command("demo")(demo)


def execute(settings: Settings, body: dict[str, Any], *, detach: bool, as_json: bool) -> None:
    """Start the run, show it, print its verdict, and exit with it."""
    from enchanted.cluster import services  # these pull in the bus and asyncio servers
    from enchanted.serve.client import ApiClient

    begun = time.monotonic()
    endpoints = asyncio.run(services.up(settings, console.say))
    with ApiClient(endpoints.api_url, endpoints.token_file.read_text().strip(), lost=say_lost) as client:
        run_id = started(client, lambda key: client.start(body, key=key))
        follow_to_the_end(client, run_id, body["repo"], detach=detach, as_json=as_json, begun=begun)


def follow_to_the_end(client: ApiClient, run_id: str, repo: str, *, detach: bool, as_json: bool, begun: float) -> None:
    """Show a run that was started, print its verdict, and exit with it; Ctrl-C cancels it."""
    if detach:
        console.emit_json({"run_id": run_id}) if as_json else console.emit(run_id)
        return
    console.say(f"{run_id} started; Ctrl-C cancels it")
    progress = RunProgress(run_id, begun)
    try:
        watch(client, progress)
        client.wait_queryable(run_id, progress.last_seq)
    except KeyboardInterrupt:
        cancel(client, progress)
        raise typer.Exit(INTERRUPTED) from None
    finally:
        if progress.closed:
            report(progress, repo, client, as_json=as_json, seconds=time.monotonic() - begun)
    raise typer.Exit(DONE if progress.state == "merged" else CHECK_FAILED)


def started(client: ApiClient, start: Callable[[str], dict[str, Any]]) -> str:
    """Start a run, given a key; a Ctrl-C meanwhile cancels what it became."""
    key = secrets.token_hex(16)
    try:
        return str(start(key)["run_id"])
    except KeyboardInterrupt:
        cancel(client, RunProgress(str(start(key)["run_id"]), time.monotonic()))
        raise


def watch(client: ApiClient, progress: RunProgress) -> None:
    """Show the run until it is closed."""
    with view_of(progress, console.say) as view:
        for event in client.follow(after=0, run=progress.run_id):
            view.show(progress.add(event))
            if progress.closed:
                return


def cancel(client: ApiClient, progress: RunProgress) -> None:
    """Ask the run to end and wait until it has."""
    console.say("cancelling the run; Ctrl-C leaves it to itself")
    client.cancel(progress.run_id)
    give_up = time.monotonic() + CANCEL_SECONDS
    while time.monotonic() < give_up:
        run = client.run(progress.run_id)
        if run["closed"]:
            progress.close(run)
            return
        time.sleep(0.2)
    console.say(f"it is still running; `enchanted run-info {progress.run_id}` shows it")


def report(progress: RunProgress, repo: str, client: ApiClient, *, as_json: bool, seconds: float) -> None:
    """The verdict, on stdout."""
    details = progress.details
    document = {
        "run_id": progress.run_id,
        "verdict": progress.state,
        "reason": progress.reason,
        "branch": details.get("branch"),
        "rolled_back": details.get("rolled_back", []),
        "repo": repo,
        "url": f"{client.url}/runs/{progress.run_id}",
        "events": progress.stored,
        "seconds": round(seconds, 1),
    }
    if as_json:
        console.emit_json(document)
        return
    console.say(f"{progress.stored} events stored, {progress.output_tokens} tokens, {seconds:.1f} s")
    console.say(one_line(f"{progress.state}: {progress.reason}", LONGEST_REASON))
    if document["rolled_back"]:
        console.say(one_line(f"rolled back: {', '.join(document['rolled_back'])}", LONGEST_REASON))
    branch = f"branch {one_line(document['branch'])}" if document["branch"] else "no branch"
    console.emit(f"{progress.run_id} {progress.state}, {branch}, {client.page(progress.run_id)}")


def chosen_models(settings: Settings, model: str | None) -> dict[str, str]:
    """Role -> model URL, as this command line's flags and settings say.

    Raises:
        CommandFailed: one is no model URL.
    """
    chosen: dict[str, str] = {role: model or settings.role_model(role).url for role in ROLES}
    for url in chosen.values():
        try:
            parse_model_url(url)
        except BadModelUrl as error:
            cause, _, remedy = str(error).partition("; ")
            raise CommandFailed(cause, remedy, USAGE) from error
    return chosen


def checked_repository(repo: Path) -> Path:
    """The root of the git repository at ``repo``.

    Raises:
        RepositoryRefused: there is none, or it has no commit.
    """
    folder = repo.expanduser().absolute()
    if not folder.is_dir():
        raise RepositoryRefused(f"{folder} is not a folder", "give the path of a git repository with --repo")
    bare = _git(folder, "rev-parse", "--is-bare-repository") == "true"
    top = str(folder) if bare else _git(folder, "rev-parse", "--show-toplevel")
    if not top:
        raise _unreadable(folder)
    if not _git(folder, "rev-parse", "--verify", "HEAD^{commit}"):
        remedy = f"run `git -C {folder} commit` first: agents work on what is committed"
        raise RepositoryRefused(f"{folder} has no commits", remedy)
    if dirty := _git(folder, "status", "--porcelain", "--untracked-files=no"):
        changes = len(dirty.splitlines())
        console.say(f"note: {changes} uncommitted changes in {folder} are left alone; agents see the last commit")
    return Path(top)


def next_demo_folder(parent: Path) -> Path:
    """The first ``parent``/1, 2, 3 ... that is not there."""
    number = 1
    while (parent / str(number)).exists():
        number += 1
    return parent / str(number)


def copy_demo(folder: Path) -> None:
    """Make ``folder`` a git repository with the demo project as its first commit.

    Raises:
        RepositoryRefused: the folder exists and is not empty.
    """
    if folder.exists() and not folder.is_dir():
        raise RepositoryRefused(f"{folder} is no folder", "give an empty folder with --into")
    if folder.exists() and any(folder.iterdir()):
        raise RepositoryRefused(f"{folder} is not empty", "give an empty folder with --into")
    shutil.copytree(DEMO_PROJECT, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    # Whoever signs commits or has hooks for all repositories has them for their own.
    own = ("-c", "commit.gpgsign=false", "-c", f"core.hooksPath={os.devnull}")
    identity = (*own, "-c", "user.name=Enchanted demo", "-c", "user.email=demo@enchanted.invalid")
    for arguments in (
        ("init", "-q", "-b", "main"),
        ("add", "-A"),
        (*identity, "commit", "-q", "-m", "The demo project"),
    ):
        subprocess.run(["git", "-C", str(folder), *arguments], check=True, env=_of_no_repository())


def _unreadable(folder: Path) -> RepositoryRefused:
    """Why git finds no repository at ``folder``: there is none, or git will not read it."""
    words = _ask_git(folder, "rev-parse", "--git-dir").stderr.strip()
    if "dubious ownership" in words:
        remedy = f"`git config --global --add safe.directory {folder}` if you trust it"
        return RepositoryRefused(f"the git repository {folder} belongs to somebody else", remedy)
    remedy = f"run `git -C {folder} init` and commit, or give another --repo"
    return RepositoryRefused(f"{folder} is not a git repository", remedy)


def _git(folder: Path, *arguments: str) -> str:
    done = _ask_git(folder, *arguments)
    return done.stdout.strip() if done.returncode == 0 else ""


def _of_no_repository() -> dict[str, str]:
    """The environment without what git says to its hooks, by which a folder's git would be another repository's."""
    return {name: value for name, value in os.environ.items() if name not in REPOSITORY_VARIABLES}


def _ask_git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**_of_no_repository(), "LC_ALL": "C"}
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, errors="replace")
