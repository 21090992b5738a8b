"""Deciding: a message, a click or a tick meets the facts and yields one `Decision` that carries its reason. Pure."""

from gateway.decide.click import decide_action
from gateway.decide.message import decide_message

__all__ = ["decide_action", "decide_message"]
