"""Notices of Prefect when a flow has finished, has failed or was refused: to Slack, by e-mail or to a webhook.

python -m flows.notices slack          # JUICER_SLACK_URL: address of an incoming webhook of Slack
python -m flows.notices email          # JUICER_SENDGRID_KEY, JUICER_MAIL_FROM, JUICER_MAIL_TO (with commas)
python -m flows.notices webhook        # JUICER_WEBHOOK_URL: it gets a POST with JSON
python -m flows.notices slack --off    # no more of them

The addresses and keys are kept in a block of the Prefect server that PREFECT_API_URL names, juicer-slack and so on. One
that is there already, such as one made in Prefect's pages, is used if the variables are not set. Nothing is sent before
one of these commands was given. flows/notices.yaml has the words.
"""

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal
from uuid import UUID

from prefect.blocks.core import Block
from prefect.blocks.notifications import SendgridEmail, SlackWebhook
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import get_client
from prefect.events.actions import CallWebhook, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.settings import get_current_settings
from pydantic import Field, SecretStr

from flows.server import check_server
from flows.setup import ensure_automation
from juicer.runtime.command import guarded
from juicer.runtime.errors import InputError
from juicer.runtime.files import read_yaml
from juicer.settings.base import Settings

NOTICES = Path(__file__).with_name("notices.yaml")
FLOWS = ["align", "evaluate", "promote"]
Channel = Literal["slack", "email", "webhook"]
CHANNELS: tuple[Channel, ...] = ("slack", "email", "webhook")
VARIABLES: dict[Channel, tuple[str, ...]] = {
    "slack": ("JUICER_SLACK_URL",),
    "email": ("JUICER_SENDGRID_KEY", "JUICER_MAIL_FROM", "JUICER_MAIL_TO"),
    "webhook": ("JUICER_WEBHOOK_URL",),
}
KINDS: dict[Channel, type[Block]] = {"slack": SlackWebhook, "email": SendgridEmail, "webhook": Webhook}


class Notice(Settings):
    """One entry of flows/notices.yaml."""

    name: str = Field(pattern=r"^[a-z-]+$")
    description: str
    events: list[str]
    """Prefect's names of the events that it tells of."""
    subject: str
    body: str


class Notices(Settings):
    """flows/notices.yaml."""

    notices: list[Notice]
    payload: str
    """What a webhook gets; NAME stands for the name of the notice."""


def templates() -> Notices:
    """The notices of the project; InputError if flows/notices.yaml has a mistake."""
    return Notices.parse(read_yaml(NOTICES), str(NOTICES))


def block_of(channel: Channel, environment: Mapping[str, str]) -> Block | None:
    """What sends the notices of a channel, from the environment; None if no variable is set.

    Raises:
        InputError: only some of the variables are set.
    """
    names = VARIABLES[channel]
    values = [environment.get(name, "") for name in names]
    if not any(values):
        return None
    if missing := [name for name, value in zip(names, values, strict=True) if not value]:
        raise InputError(f"{', '.join(missing)} is not set", where="environment", do=f"set {' and '.join(names)}")
    if channel == "slack":
        return SlackWebhook(url=SecretStr(values[0]))
    if channel == "email":
        to = [each.strip() for each in values[2].split(",") if each.strip()]
        return SendgridEmail(api_key=SecretStr(values[0]), sender_email=values[1], to_emails=to)
    return Webhook(url=SecretStr(values[0]))


def automation_of(notice: Notice, channel: Channel, block: UUID, payload: str) -> AutomationCore:
    """The automation that sends a notice.

    Args:
        block: id of the block that sends it.
        payload: as `Notices.payload`.
    """
    action: CallWebhook | SendNotification
    if channel == "webhook":
        action = CallWebhook(block_document_id=block, payload=payload.replace("NAME", notice.name))
    else:
        action = SendNotification(block_document_id=block, subject=notice.subject, body=notice.body)
    return AutomationCore(
        name=f"notice-{notice.name}-{channel}",
        description=notice.description,
        trigger=EventTrigger(
            posture=Posture.Reactive,
            expect=set(notice.events),
            match=ResourceSpecification({"prefect.resource.id": "prefect.flow-run.*"}),
            match_related=ResourceSpecification(
                {"prefect.resource.role": "flow", "prefect.resource.name": list(FLOWS)}
            ),
            for_each={"prefect.resource.id"},
            threshold=1,
        ),
        actions=[action],
    )


def switch_on(channel: Channel, environment: Mapping[str, str]) -> list[str]:
    """Save the channel's block, if the environment has its values, and create its automations; returns their names.

    Raises:
        InputError: the environment has no values, and the server no block.
    """
    found, name = templates(), f"juicer-{channel}"
    block = block_of(channel, environment)
    with get_client(sync_client=True) as client:
        if block is not None:
            block.save(name, overwrite=True)
        slug = KINDS[channel].get_block_type_slug()
        listed = client.read_block_documents_by_type(slug, include_secrets=False)
        known = [each for each in listed if each.name == name]
        if not known:
            do = f"set {' and '.join(VARIABLES[channel])}, or make the block {name} ({slug}) on the server"
            raise InputError(f"no address for notices by {channel}", where="environment", do=do)
        made = [automation_of(notice, channel, known[0].id, found.payload) for notice in found.notices]
        for automation in made:
            ensure_automation(client, automation)
    return [automation.name for automation in made]


def switch_off(channel: Channel) -> list[str]:
    """Delete the automations of a channel, and leave its block; returns the names of those that were there."""
    deleted = list[str]()
    with get_client(sync_client=True) as client:
        for notice in templates().notices:
            for automation in client.read_automations_by_name(f"notice-{notice.name}-{channel}"):
                client.delete_automation(automation.id)
                deleted.append(automation.name)
    return deleted


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m flows.notices", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("channel", choices=CHANNELS, help="where to")
    parser.add_argument("--off", action="store_true", help="send no more of them")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    given = parser.parse_args()

    def work() -> None:
        if get_current_settings().api.url is None:
            do = "start one with `make ui`, then: set -a; . .juicer/ui/env; set +a"
            raise InputError("notices need a Prefect server, and PREFECT_API_URL names none", where="notices", do=do)
        check_server()
        names = switch_off(given.channel) if given.off else switch_on(given.channel, os.environ)
        print(f"{'switched off' if given.off else 'switched on'}: {', '.join(names) or 'nothing'}")

    sys.exit(guarded(work, debug=given.debug, name="notices"))


if __name__ == "__main__":
    main()
