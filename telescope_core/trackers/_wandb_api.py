"""Asking the server of Weights & Biases through the client's API; runs in the client's process."""

from __future__ import annotations

from typing import Any

from telescope_core.trackers._answers import Tell

_ANSWER_SECONDS = 3


def connect(request: dict[str, Any], tell: Tell) -> tuple[Any, str] | None:
    """The public API and the entity in use; None, and told why, if the server is of no use."""
    import wandb

    try:
        api = wandb.Api(timeout=_ANSWER_SECONDS)
        entity = str(request["entity"] or api.default_entity)
    except Exception as error:
        tell("refused", why=_why(error), detail=f"{type(error).__name__}: {error}")
        return None
    tell("connected", entity=entity)
    return api, entity


def fetch_run(api: Any, place: str, run_id: str) -> Any:
    """Ask the server for a run; None if it has none.

    Raises:
        wandb.errors.CommError: If it does not answer.
    """
    import wandb.errors

    api.flush()
    try:
        return api.run(f"{place}/{run_id}")
    except wandb.errors.CommError as error:
        if "Could not find" in str(error):
            return None
        raise


def _why(error: Exception) -> str:
    """Tell a missing key, a refused key and a silent server apart."""
    import wandb.errors

    text = str(error)
    if isinstance(error, wandb.errors.UsageError):
        return "no_key"
    if "did not respond in time" in text:
        return "no_answer"  # Also said as an authentication error, since the key was not seen.
    if isinstance(error, wandb.errors.AuthenticationError):
        return "key_refused"
    if any(sign in text for sign in ("error 401", "error 403", "API_KEY invalid", "API key")):
        return "key_refused"
    return "no_answer"
