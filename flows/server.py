"""Check that the Prefect server answers."""

import httpx
from prefect.settings import get_current_settings

from juicer.runtime.errors import InputError


def check_server() -> None:
    """Raise InputError if the configured server does not answer. Without one, Prefect starts a server for the run."""
    address = get_current_settings().api.url
    if address is None:
        return
    try:
        httpx.get(f"{address.rstrip('/')}/health", timeout=5).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise InputError(
            f"no Prefect server answers at {address}",
            where="PREFECT_API_URL",
            do="start one with `make ui`, or unset it to run without",
        ) from error
