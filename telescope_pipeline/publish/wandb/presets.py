"""Charts of one's own at the server, which draws a run's table as a stored preset says.

A preset belongs to an account or team and is stored once, under a name that has a hash of how it
draws; a run refers to it.  The client has no other way to show a chart of one's own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from telescope_pipeline.publish.conversation import Tell
from telescope_pipeline.publish.record import ChartRecord, digest_of
from telescope_pipeline.publish.wandb.parts import Lacking

_THERE = re.compile("exist|duplicate|already|taken|unique", re.IGNORECASE)
_HASH = 10
_LONGEST_TITLE = 128


class Presets:
    """The presets of an account or team.

    Args:
        api: The client's public interface.
        entity: The account or team.
        tell: Told why the server takes none, if it does not.
    """

    def __init__(self, api: Any, entity: str, tell: Tell) -> None:
        self._api = api
        self._entity = entity
        self._tell = tell
        self._refused = False

    def of(self, charts: Sequence[ChartRecord]) -> dict[str, str]:
        """Store the presets of some charts; returns their ids by chart, of those it takes."""
        found = {}
        for chart in charts:
            if not self._refused and self._stored(chart):
                found[chart.key] = f"{self._entity}/{preset_name(chart)}"
        return found

    def expected(self, lacks: Lacking) -> Lacking:
        """What is lacking, but for charts that the server does not take."""
        return replace(lacks, charts=frozenset()) if self._refused else lacks

    def _stored(self, chart: ChartRecord) -> bool:
        name, title = preset_name(chart), chart.title[:_LONGEST_TITLE]
        try:
            self._api.create_custom_chart(
                self._entity, name, title, "vega2", "private", dict(chart.spec)
            )
        except Exception as error:
            # The client has no way to ask which ones are there.
            if not _THERE.search(str(error)):
                self._refused = True
                detail = "the server stores no charts; pictures and tables are there"
                self._tell("uncharted", detail=f"{detail} ({type(error).__name__}: {error})")
        return not self._refused


def preset_name(chart: ChartRecord) -> str:
    """The name of a chart's preset, the same for what is drawn alike."""
    figure = re.sub(r"[^a-z0-9]+", "-", chart.key.rpartition("/")[2].lower()).strip("-")
    return f"telescope-{figure[:40]}-{digest_of(dict(chart.spec))[:_HASH]}"
