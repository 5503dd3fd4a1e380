"""Notices by Slack, e-mail and webhook: what Prefect is asked to send, and that nothing is sent unasked."""

import json
from uuid import UUID

import pytest
from prefect.blocks.notifications import SendgridEmail, SlackWebhook
from prefect.blocks.webhook import Webhook
from prefect.server.events.schemas.automations import AutomationCore, EventTrigger

from flows import setup
from flows.notices import CHANNELS, VARIABLES, Channel, Notices, automation_of, block_of, templates
from flows.promote import REFUSED_STATE
from juicer.runtime.errors import InputError
from juicer.runtime.files import read_yaml

BLOCK = UUID(int=7)
ENVIRONMENT = {
    "JUICER_SLACK_URL": "https://hooks.slack.com/services/AAAA/BBBB/CCCC",
    "JUICER_SENDGRID_KEY": "a-key",
    "JUICER_MAIL_FROM": "juicer@example.org",
    "JUICER_MAIL_TO": "one@example.org, two@example.org",
    "JUICER_WEBHOOK_URL": "http://127.0.0.1:9/notice",
}


@pytest.mark.parametrize("channel", CHANNELS)
def test_the_server_accepts_every_notice_of_every_channel(channel: Channel) -> None:
    found = templates()
    for notice in found.notices:
        sent = automation_of(notice, channel, BLOCK, found.payload).model_dump(mode="json")
        accepted = AutomationCore.model_validate(sent)
        assert accepted.name == f"notice-{notice.name}-{channel}"
        assert isinstance(accepted.trigger, EventTrigger)
        assert accepted.trigger.expect == set(notice.events)
        (action,) = accepted.actions
        assert action.type == ("call-webhook" if channel == "webhook" else "send-notification")
        assert str(BLOCK) in json.dumps(action.model_dump(mode="json"))


def test_finish_failure_and_refusal_are_told_of_and_only_of_flows_of_the_project() -> None:
    found = templates()
    events = {event for notice in found.notices for event in notice.events}
    assert events == {f"prefect.flow-run.{state}" for state in ("Completed", "Failed", "Crashed", REFUSED_STATE)}
    related = automation_of(found.notices[0], "slack", BLOCK, "").model_dump(mode="json")["trigger"]["match_related"]
    assert related == {"prefect.resource.role": "flow", "prefect.resource.name": ["align", "evaluate", "promote"]}


def test_a_server_that_is_set_up_sends_no_notice() -> None:
    automations = read_yaml(setup.AUTOMATIONS)["automations"]
    types = {action["type"] for each in automations for action in each["actions"]}
    assert types == {"change-flow-run-state"}


# Of what apprise imports for e-mail; nothing we could mend.
@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
def test_addresses_and_keys_come_from_the_environment_into_secret_fields() -> None:
    slack, email, webhook = (block_of(channel, ENVIRONMENT) for channel in CHANNELS)
    assert isinstance(slack, SlackWebhook) and isinstance(email, SendgridEmail) and isinstance(webhook, Webhook)
    assert email.to_emails == ["one@example.org", "two@example.org"]
    for block in (slack, email, webhook):
        for secret in ("AAAA", "a-key", "127.0.0.1"):
            assert secret not in repr(block)


def test_without_variables_a_block_of_the_server_is_meant() -> None:
    assert [block_of(channel, {}) for channel in CHANNELS] == [None, None, None]


def test_half_of_the_variables_is_a_mistake_that_names_the_rest() -> None:
    with pytest.raises(InputError, match="JUICER_SENDGRID_KEY, JUICER_MAIL_TO is not set"):
        block_of("email", {"JUICER_MAIL_FROM": "juicer@example.org"})


def test_a_mistake_in_the_file_names_the_nearest_key() -> None:
    with pytest.raises(InputError, match=r"unknown parameter 'notices\.0\.subjct'.*subject"):
        Notices.parse(
            {"notices": [{**templates().notices[0].model_dump(), "subjct": ""}], "payload": ""}, "notices.yaml"
        )


def test_the_documented_variables_are_those_that_are_read() -> None:
    assert {name for names in VARIABLES.values() for name in names} == set(ENVIRONMENT)
